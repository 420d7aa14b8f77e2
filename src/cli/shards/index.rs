//! The index of the shard and the number of processes, as the engine that started this one gives
//! them.

/// The variables that hold the index. The first one that is set counts.
const INDICES: [(&str, &str); 3] = [
    ("JOB_COMPLETION_INDEX", "an Indexed Job of Kubernetes"),
    ("AWS_BATCH_JOB_ARRAY_INDEX", "an array job of AWS Batch"),
    ("SLURM_ARRAY_TASK_ID", "a job array of Slurm"),
];
/// The variables that hold the size of an array.
const SIZES: [&str; 2] = ["AWS_BATCH_JOB_ARRAY_SIZE", "SLURM_ARRAY_TASK_COUNT"];

/// Returns the index that was typed, or else that of the engine.
pub(super) fn index(
    typed: Option<u32>,
    variable: impl Fn(&str) -> Option<String>,
) -> Result<u32, String> {
    if let Some(typed) = typed {
        return Ok(typed);
    }
    for (name, _) in INDICES {
        if let Some(text) = variable(name).filter(|text| !text.is_empty()) {
            return text
                .parse()
                .map_err(|_| format!("{name} is `{text}`, which is not the index of a shard; unset it, or set the index with --shard"));
        }
    }
    let names: Vec<_> = INDICES
        .iter()
        .map(|(name, engine)| format!("{name} ({engine})"))
        .collect();
    Err(format!(
        "--state runs one shard, and its index is not known: none of {} is set; start the processes with one of these, or set the \
         index with --shard",
        names.join(", ")
    ))
}

/// Returns the size of the array that this process belongs to.
pub(super) fn array_size(variable: impl Fn(&str) -> Option<String>) -> Option<u32> {
    let size = SIZES.iter().find_map(|name| variable(name)?.parse().ok());
    size.filter(|size| *size > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with<'a>(set: &'a [(&'a str, &'a str)]) -> impl Fn(&str) -> Option<String> + 'a {
        |name| {
            let value = set.iter().find(|(variable, _)| *variable == name);
            value.map(|(_, value)| (*value).to_owned())
        }
    }

    #[test]
    fn the_flag_counts_before_the_variables_and_those_in_their_order() {
        let all = [
            ("SLURM_ARRAY_TASK_ID", "3"),
            ("AWS_BATCH_JOB_ARRAY_INDEX", "2"),
            ("JOB_COMPLETION_INDEX", "1"),
        ];
        assert_eq!(index(Some(0), with(&all)), Ok(0));
        assert_eq!(index(None, with(&all)), Ok(1));
        assert_eq!(index(None, with(&all[..2])), Ok(2));
        assert_eq!(index(None, with(&all[..1])), Ok(3));
        let empty = [("JOB_COMPLETION_INDEX", ""), ("SLURM_ARRAY_TASK_ID", "7")];
        assert_eq!(
            index(None, with(&empty)),
            Ok(7),
            "an empty variable is not set"
        );
    }

    #[test]
    fn without_an_index_the_error_names_the_flag_and_the_variables() {
        let error = index(None, with(&[])).unwrap_err();
        for name in [
            "--shard",
            "JOB_COMPLETION_INDEX",
            "AWS_BATCH_JOB_ARRAY_INDEX",
            "SLURM_ARRAY_TASK_ID",
        ] {
            assert!(error.contains(name), "{error}");
        }
        let error = index(None, with(&[("JOB_COMPLETION_INDEX", "-1")])).unwrap_err();
        assert!(error.starts_with("JOB_COMPLETION_INDEX is `-1`"), "{error}");
    }

    #[test]
    fn the_size_of_an_array_is_known_to_batch_and_slurm() {
        assert_eq!(
            array_size(with(&[("SLURM_ARRAY_TASK_COUNT", "64")])),
            Some(64)
        );
        assert_eq!(
            array_size(with(&[("AWS_BATCH_JOB_ARRAY_SIZE", "8")])),
            Some(8)
        );
        assert_eq!(array_size(with(&[("SLURM_ARRAY_TASK_COUNT", "0")])), None);
        assert_eq!(array_size(with(&[])), None);
    }
}
