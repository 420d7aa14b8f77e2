//! Commands that a user may paste into a shell.
//!
//! Words are quoted. Passwords in URLs are replaced, because commands appear on terminals and in
//! logs.

/// Quotes a word for a shell if necessary.
fn quoted(word: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=@%+,".contains(c);
    if !word.is_empty() && word.chars().all(is_plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', "'\\''"))
}

/// Returns an `s3haul` command with these words.
pub(crate) fn command<'w>(words: impl IntoIterator<Item = &'w str>) -> String {
    line(std::iter::once("s3haul").chain(words))
}

/// Returns a command with these words as a line for a shell. The first word is the program.
pub(crate) fn line<'w>(words: impl IntoIterator<Item = &'w str>) -> String {
    let words: Vec<_> = words.into_iter().collect();
    let words = without_passwords(&words);
    let words: Vec<_> = words.iter().map(|word| quoted(word)).collect();
    words.join(" ")
}

/// Returns the words with the user and password of each URL replaced by a placeholder. Only a whole
/// word or the value of a flag can be a URL; inside a key, the same characters are part of a name.
fn without_passwords(words: &[&str]) -> Vec<String> {
    let follows_proxy = |index: usize| index > 0 && words[index - 1] == "--proxy";
    let shown = |(index, word): (usize, &&str)| {
        let flag = word.split_once('=').filter(|_| word.starts_with("--"));
        let value_at = flag.map_or(0, |(flag, _)| flag.len() + 1);
        let is_proxy = flag.map_or_else(|| follows_proxy(index), |(flag, _)| flag == "--proxy");
        let value = &word[value_at..];
        let schemes = ["http://", "https://"];
        let scheme = schemes.into_iter().find(|scheme| {
            let beginning = value.get(..scheme.len());
            beginning.is_some_and(|beginning| beginning.eq_ignore_ascii_case(scheme))
        });
        let scheme_length = match scheme {
            Some(scheme) => scheme.len(),
            // The URL of a proxy needs no scheme.
            None if is_proxy => 0,
            None => return (*word).to_owned(),
        };
        let (before, url) = word.split_at(value_at + scheme_length);
        let end = url.find('/').unwrap_or(url.len());
        match url[..end].rfind('@') {
            Some(at) => format!("{before}USER:PASSWORD{}", &url[at..]),
            None => (*word).to_owned(),
        }
    };
    words.iter().enumerate().map(shown).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_is_quoted_for_a_shell_only_if_it_needs_that() {
        for (word, expected) in [
            ("s3://b/a/k.bin", "s3://b/a/k.bin"),
            ("s3://b/a b", "'s3://b/a b'"),
            ("it's", r"'it'\''s'"),
            ("$(rm -rf ~)", "'$(rm -rf ~)'"),
            ("", "''"),
        ] {
            assert_eq!(quoted(word), expected);
        }
    }

    #[test]
    fn a_password_is_not_repeated() {
        for (typed, shown) in [
            (
                "--proxy http://me:s@p:1/",
                "--proxy http://USER:PASSWORD@p:1/",
            ),
            ("--proxy me:s@p:1", "--proxy USER:PASSWORD@p:1"),
            ("--proxy=me:s@p:1", "--proxy=USER:PASSWORD@p:1"),
            ("--proxy=https://me:s@p", "--proxy=https://USER:PASSWORD@p"),
            (
                "--endpoint-url=http://k:s@h/a@b",
                "--endpoint-url=http://USER:PASSWORD@h/a@b",
            ),
            (
                "copy s3://a/b@c http://h/x@y",
                "copy s3://a/b@c http://h/x@y",
            ),
            (
                "--key crawl/http://me@h/x s3://b/https://me:s@h/",
                "--key crawl/http://me@h/x s3://b/https://me:s@h/",
            ),
            (
                "--endpoint-url HTTPS://k:s@h --tag=u=http://a@b",
                "--endpoint-url HTTPS://USER:PASSWORD@h --tag=u=http://a@b",
            ),
        ] {
            let typed: Vec<_> = typed.split(' ').collect();
            let shown: Vec<_> = shown.split(' ').collect();
            assert_eq!(without_passwords(&typed), shown);
        }
    }
}
