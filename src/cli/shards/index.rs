//! The index of the shard and the number of processes, from the engine that started this process.

/// An engine that starts processes with an index.
struct Engine {
    name: &'static str,
    /// The variable that holds the index.
    index: &'static str,
    /// The variable that holds the size of the array, if it has one.
    size: Option<&'static str>,
}

/// The engines. The first engine whose index is set also determines the size: variables of the
/// others may be inherited from the parent process.
const ENGINES: [Engine; 3] = [
    Engine {
        name: "an Indexed Job of Kubernetes",
        index: "JOB_COMPLETION_INDEX",
        size: None,
    },
    Engine {
        name: "an array job of AWS Batch",
        index: "AWS_BATCH_JOB_ARRAY_INDEX",
        size: Some("AWS_BATCH_JOB_ARRAY_SIZE"),
    },
    Engine {
        name: "a job array of Slurm",
        index: "SLURM_ARRAY_TASK_ID",
        size: Some("SLURM_ARRAY_TASK_COUNT"),
    },
];

/// Returns the engine that started this process, and the text of its index.
fn engine(variable: impl Fn(&str) -> Option<String>) -> Option<(&'static Engine, String)> {
    ENGINES.iter().find_map(|engine| {
        let text = variable(engine.index).filter(|text| !text.is_empty())?;
        Some((engine, text))
    })
}

/// Returns the index that the user typed, or else the engine's.
pub(super) fn index(
    typed: Option<u32>,
    variable: impl Fn(&str) -> Option<String>,
) -> Result<u32, String> {
    if let Some(typed) = typed {
        return Ok(typed);
    }
    if let Some((engine, text)) = engine(variable) {
        let name = engine.index;
        return text
            .parse()
            .map_err(|_| format!("{name} is `{text}`, which is not the index of a shard; unset it, or set the index with --shard"));
    }
    let names: Vec<_> = ENGINES
        .iter()
        .map(|engine| format!("{} ({})", engine.index, engine.name))
        .collect();
    Err(format!(
        "--state runs one shard, and its index is not known: none of {} is set; start the processes with one of these, or set the \
         index with --shard",
        names.join(", ")
    ))
}

/// Returns the size of the array that this process belongs to.
pub(super) fn array_size(variable: impl Fn(&str) -> Option<String>) -> Option<u32> {
    let (engine, _) = engine(&variable)?;
    let size = variable(engine.size?)?.parse().ok();
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
    fn the_size_of_an_array_is_that_of_the_engine_that_gives_the_index() {
        let slurm = [
            ("SLURM_ARRAY_TASK_ID", "3"),
            ("SLURM_ARRAY_TASK_COUNT", "64"),
        ];
        let batch = [
            ("AWS_BATCH_JOB_ARRAY_INDEX", "3"),
            ("AWS_BATCH_JOB_ARRAY_SIZE", "8"),
        ];
        assert_eq!(array_size(with(&slurm)), Some(64));
        assert_eq!(array_size(with(&batch)), Some(8));
        assert_eq!(array_size(with(&[slurm, batch].concat())), Some(8));
        for (name, size) in [
            ("AWS_BATCH_JOB_ARRAY_SIZE", Some(64)),
            ("SLURM_ARRAY_TASK_COUNT", None),
            ("JOB_COMPLETION_INDEX", None),
        ] {
            let with_zero = [&[(name, "0")], &slurm[..]].concat();
            assert_eq!(array_size(with(&with_zero)), size, "{name}");
        }
        assert_eq!(array_size(with(&slurm[1..])), None);
        assert_eq!(array_size(with(&[])), None);
    }
}
