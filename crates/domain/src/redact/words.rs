//! By which words a secret is known: in names, and in texts that carry one.

/// A name, its case and separators aside, that holds one of these names a secret.
const IN_A_NAME: [&str; 13] = [
    "PASSWORD",
    "PASSWD",
    "PASSPHRASE",
    "SECRET",
    "TOKEN",
    "CREDENTIAL",
    "APIKEY",
    "ACCESSKEY",
    "PRIVATEKEY",
    "ENCRYPTIONKEY",
    "SIGNINGKEY",
    "AUTHKEY",
    "CONNECTIONSTRING",
];
const AT_ITS_END: [&str; 3] = ["PWD", "DSN", "PASS"];

/// Whether an environment variable, a ConfigMap's key or a flag is named like a secret: `DB_PASSWORD`, `apiKey`.
pub(super) fn name_looks_secret(name: &str) -> bool {
    /// Nearly every name fits; what does not is looked at in the heap.
    const ON_THE_STACK: usize = 64;
    let plain = name.bytes().filter(u8::is_ascii_alphanumeric).map(|letter| letter.to_ascii_uppercase());
    let mut short = [0; ON_THE_STACK];
    if name.len() > ON_THE_STACK {
        return plain_name_looks_secret(&plain.collect::<Vec<u8>>());
    }
    let length = plain.zip(&mut short).map(|(letter, place)| *place = letter).count();
    plain_name_looks_secret(&short[..length])
}

fn plain_name_looks_secret(plain: &[u8]) -> bool {
    let holds = |at: usize| {
        // What every word begins with, so that few places are looked at more closely.
        matches!(plain[at], b'P' | b'S' | b'T' | b'C' | b'A' | b'E')
            && IN_A_NAME.iter().any(|word| plain[at..].starts_with(word.as_bytes()))
    };
    (0..plain.len()).any(holds) || AT_ITS_END.iter().any(|word| plain.ends_with(word.as_bytes()))
}

/// Whether a field of this very name holds a secret. Stricter than for variables: many fields only name a Secret.
pub(super) fn field_is_secret(key: &str) -> bool {
    const FIELDS: [&str; 13] = [
        "password",
        "passwd",
        "passphrase",
        "token",
        "accessToken",
        "refreshToken",
        "bearerToken",
        "clientSecret",
        "apiKey",
        "secretKey",
        "secretAccessKey",
        "privateKey",
        "connectionString",
    ];
    FIELDS.contains(&key)
}

/// The text with its secrets replaced; None where it has none.
pub(super) fn without_secrets(text: &str, placeholder: impl Fn(&str) -> String) -> Option<String> {
    /// A shorter text holds none that could be told from ordinary words.
    const SHORTEST: usize = 8;
    if text.len() < SHORTEST || !has_a_beginning(text.as_bytes()) {
        return None;
    }
    if text.contains("-----BEGIN ") && text.contains("PRIVATE KEY-----") {
        return Some(placeholder(text));
    }
    let mut redacted: Option<String> = None;
    for find in [flag_value, bearer_token, web_token, url_password] {
        let current = redacted.as_deref().unwrap_or(text);
        if let Some(next) = replace_each(current, find, &placeholder) {
            redacted = Some(next);
        }
    }
    redacted
}

/// Whether any rule below could find anything: by what each looks for first, in one pass, since most texts are short and
/// hold nothing, and to set a search up for each rule costs more than the search.
fn has_a_beginning(text: &[u8]) -> bool {
    text.starts_with(b"--")
        || text.iter().enumerate().any(|(at, byte)| match byte {
            b':' => text[at..].starts_with(b"://"),
            b'J' => text[..at].ends_with(b"ey"),
            b' ' => text[..at].ends_with(b"earer") || text[..at].ends_with(b"-----BEGIN"),
            _ => false,
        })
}

/// Finds a secret in a text: where it begins and ends, in bytes.
type Find = fn(&str) -> Option<(usize, usize)>;

fn replace_each(text: &str, find: Find, placeholder: &impl Fn(&str) -> String) -> Option<String> {
    let mut out: Option<String> = None;
    let mut rest = text;
    while let Some((from, to)) = find(rest) {
        let out = out.get_or_insert_default();
        out.push_str(&rest[..from]);
        let secret = &rest[from..to];
        // What another rule has replaced stays as it is.
        if secret.starts_with("<redacted") {
            out.push_str(secret)
        } else {
            out.push_str(&placeholder(secret))
        }
        rest = &rest[to..];
    }
    out.map(|out| out + rest)
}

/// `--password=…`, a whole argument.
fn flag_value(text: &str) -> Option<(usize, usize)> {
    let (name, value) = text.strip_prefix("--")?.split_once('=')?;
    (name_looks_secret(name) && !value.is_empty() && !name.contains(char::is_whitespace))
        .then_some((text.len() - value.len(), text.len()))
}

/// RFC 6750's `Bearer` and the token behind it.
fn bearer_token(text: &str) -> Option<(usize, usize)> {
    /// Shorter than any real one; "the bearer of this" is none.
    const SHORTEST: usize = 16;
    let is_token = |b: u8| b.is_ascii_alphanumeric() || b"-._~+/=".contains(&b);
    for (at, _) in text.match_indices("earer ") {
        let from = at + "earer ".len();
        let length = text[from..].bytes().take_while(|b| is_token(*b)).count();
        let whole_word = at > 0 && matches!(text.as_bytes()[at - 1], b'B' | b'b');
        if whole_word && length >= SHORTEST {
            return Some((from, from + length));
        }
    }
    None
}

/// A JSON web token: three parts of base64url, the first of which is an object.
fn web_token(text: &str) -> Option<(usize, usize)> {
    let is_part = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
    let mut from = 0;
    while let Some(at) = text[from..].find("eyJ") {
        from += at;
        let length = text[from..].bytes().take_while(|b| is_part(*b) || *b == b'.').count();
        let token = &text[from..from + length];
        if token.split('.').filter(|part| !part.is_empty()).count() >= 3 {
            return Some((from, from + length));
        }
        // What begins later in the same run has no more parts than the run: each byte is looked at once.
        from += length;
    }
    None
}

/// The password in `scheme://user:password@host`.
fn url_password(text: &str) -> Option<(usize, usize)> {
    for (at, _) in text.match_indices("://") {
        let from = at + "://".len();
        let length = text[from..].find(|c: char| c == '/' || c == '?' || c == '#' || c.is_whitespace() || c == '"');
        let authority = &text[from..length.map_or(text.len(), |length| from + length)];
        let Some((user, _)) = authority.rsplit_once('@') else { continue };
        if let Some((name, password)) = user.split_once(':')
            && !password.is_empty()
            && !password.starts_with("<redacted")
        {
            let from = from + name.len() + 1;
            return Some((from, from + password.len()));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_word_is_found_wherever_it_stands_in_a_name() {
        for word in IN_A_NAME {
            for name in [word.to_owned(), format!("x{word}y"), format!("{}{word}", "x".repeat(80))] {
                assert!(name_looks_secret(&name), "{name}");
            }
        }
    }

    #[test]
    fn names_are_known_whatever_their_case_and_separators() {
        for name in ["DB_PASSWORD", "apiKey", "api-key", "GITHUB_TOKEN", "PGPASS", "client_secret", "SENTRY_DSN"] {
            assert!(name_looks_secret(name), "{name}");
        }
        for name in ["LOG_LEVEL", "KEYBOARD", "PATH", "COMPASS_HEADING", "primary_key", "AUTHOR"] {
            assert!(!name_looks_secret(name), "{name}");
        }
    }

    #[test]
    fn what_carries_a_secret_keeps_the_rest_of_its_text() {
        let cases = [
            ("--db-password=x y", Some("--db-password=#")),
            ("--level=debug", None),
            ("curl -H 'Authorization: bearer abcdefghijklmnopqrst' x", Some("curl -H 'Authorization: bearer #' x")),
            ("the bearer of this", None),
            ("a eyJhbGci.eyJzdWIi.c2ln b eyJhbGci.eyJzdWIi.c2ln", Some("a # b #")),
            ("eyJ is how they start", None),
            ("postgres://app:s3c:ret@db/x, redis://:pw@r", Some("postgres://app:#@db/x, redis://:#@r")),
            ("https://example.com:8080/a@b", None),
            ("short", None),
        ];
        for (text, told) in cases {
            assert_eq!(without_secrets(text, |_| "#".to_owned()).as_deref(), told, "{text}");
        }
    }
}
