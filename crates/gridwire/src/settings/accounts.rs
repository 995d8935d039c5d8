//! Storage accounts for dead letters: `[dead_letter.accounts.NAME]`, as many as there are.
//!
//! Their keys are secrets: they come from the file itself, from a file it names, or from a variable, never from a
//! flag, which the process list would show.

use std::collections::BTreeMap;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use gridwire_broker::{AccountKind, AccountOptions};

use super::keys::Key;
use super::layers::Raw;
use super::report::Problem;

/// What comes before an account's name, in the file and in variables.
pub(super) const SECTION: &str = "dead_letter.accounts";
pub(super) const VARIABLE: &str = "GRIDWIRE_DEAD_LETTER_ACCOUNTS_";
/// Bytes of a file with a key.
const KEY_BYTES_MAX: u64 = 64 << 10;

/// The keys of one account. `NAME` stands for the account's name.
pub(crate) const ACCOUNT_KEYS: &[Key] = &[
    Key {
        name: "dead_letter.accounts.NAME.url",
        flag: None,
        default: "",
        allowed: "a URL such as https://letters1.blob.core.windows.net or https://s3.eu-west-1.amazonaws.com",
        about: "Where the storage account NAME is. Dead letters for it become blobs there; without it they are \
                files below deadletter/NAME.",
        secret: false,
    },
    Key {
        name: "dead_letter.accounts.NAME.kind",
        flag: None,
        default: "azure",
        allowed: "azure or s3",
        about: "Which service it is.",
        secret: false,
    },
    Key {
        name: "dead_letter.accounts.NAME.key",
        flag: None,
        default: "",
        allowed: "azure: an access key, or a shared access signature (sv=...&sig=...); s3: ACCESS_KEY_ID:SECRET",
        about: "By what we may use it.",
        secret: true,
    },
    Key {
        name: "dead_letter.accounts.NAME.key_file",
        flag: None,
        default: "",
        allowed: "a file, instead of `key`",
        about: "The file that its key is in.",
        secret: false,
    },
    Key {
        name: "dead_letter.accounts.NAME.region",
        flag: None,
        default: "us-east-1",
        allowed: "the name of a region; s3 only",
        about: "Where the buckets are.",
        secret: false,
    },
];

/// The members of an account, by their last word.
const MEMBERS: [&str; 5] = ["url", "kind", "key", "key_file", "region"];

/// What is written of the accounts, by name and member.
#[derive(Debug, Default)]
pub(super) struct Accounts(BTreeMap<String, BTreeMap<&'static str, Raw>>);

/// The member that a word of the file names.
pub(super) fn member(word: &str) -> Option<&'static str> {
    MEMBERS.into_iter().find(|member| *member == word)
}

/// Account and member of the end of a variable's name: `LETTERS1_KEY_FILE`.
pub(super) fn variable(rest: &str) -> Option<(String, &'static str)> {
    let (name, word) = rest.split_once('_')?;
    Some((name.to_ascii_lowercase(), member(&word.to_ascii_lowercase())?))
}

/// As storage accounts are called; so a name is a plain directory's, too.
pub(super) fn is_account_name(name: &str) -> bool {
    (3..=24).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
}

impl Accounts {
    pub(super) fn put(&mut self, account: &str, member: &'static str, raw: Raw) {
        self.0.entry(account.to_owned()).or_default().insert(member, raw);
    }

    /// Key, value and place of all that is written, for `config print`. Secrets are not shown.
    pub(super) fn in_force(&self) -> Vec<[String; 3]> {
        let all = self.0.iter().flat_map(|(name, members)| members.iter().map(move |entry| (name, entry)));
        all.map(|(name, (member, raw))| {
            let value = if may_be_shown(member, &raw.text) { raw.text.clone() } else { "***".to_owned() };
            [format!("{SECTION}.{name}.{member}"), value, raw.place.clone()]
        })
        .collect()
    }

    /// Every account understood; what is wrong is added to `problems`.
    pub(super) fn settle(&self, problems: &mut Vec<Problem>) -> Vec<AccountOptions> {
        let understood = self.0.iter().map(|(name, members)| settle_one(name, members));
        let mut accounts = Vec::new();
        for account in understood {
            match account {
                Ok(account) => accounts.push(account),
                Err(problem) => problems.push(problem),
            }
        }
        accounts
    }
}

fn settle_one(name: &str, members: &BTreeMap<&'static str, Raw>) -> Result<AccountOptions, Problem> {
    let problem = |member: &str, found: bool, allowed: String| {
        let raw = members.get(member).or_else(|| members.values().next());
        Problem {
            key: format!("{SECTION}.{name}.{member}"),
            place: raw.map_or_else(String::new, |raw| raw.place.clone()),
            found: members
                .get(member)
                .filter(|raw| found && may_be_shown(member, &raw.text))
                .map(|raw| raw.text.clone()),
            allowed,
        }
    };
    let allowed = |member: &str| {
        let key = ACCOUNT_KEYS.iter().find(|key| key.name.rsplit('.').next() == Some(member));
        format!("allowed: {}", key.map_or("", |key| key.allowed))
    };
    let text = |member: &str| members.get(member).map(|raw| raw.text.as_str());
    if !is_account_name(name) {
        let allowed = "the name of a storage account: 3 to 24 lower-case letters and digits".to_owned();
        return Err(problem("url", false, allowed));
    }
    let url = text("url").filter(|url| is_endpoint(url)).ok_or_else(|| {
        let hint = if text("url").is_some_and(|url| url.contains('?')) {
            "; what follows `?` is a shared access signature: write it into `key`"
        } else {
            ""
        };
        problem("url", true, allowed("url") + hint)
    })?;
    let key = match (text("key"), text("key_file")) {
        (Some(key), None) => key.trim().to_owned(),
        (None, Some(file)) => {
            read_key(Path::new(file)).map_err(|reason| problem("key_file", true, reason))?
        }
        (Some(_), Some(_)) => {
            return Err(problem("key_file", false, "left out where `key` is given".to_owned()));
        }
        (None, None) => return Err(problem("key", false, "given, or `key_file`".to_owned())),
    };
    if key.is_empty() {
        return Err(problem("key", false, allowed("key")));
    }
    let kind = match text("kind").unwrap_or("azure") {
        "azure" if key.contains("sig=") => AccountKind::AzureSas(key),
        // One that cannot sign would fail only with the first letter, when it matters.
        "azure" if STANDARD.decode(&key).is_err() => return Err(problem("key", false, allowed("key"))),
        "azure" => AccountKind::AzureKey(key),
        "s3" => {
            let Some((key_id, secret)) = key.split_once(':') else {
                return Err(problem("key", false, allowed("key")));
            };
            AccountKind::S3 {
                region: text("region").unwrap_or("us-east-1").to_owned(),
                key_id: key_id.to_owned(),
                secret: secret.to_owned(),
            }
        }
        _ => return Err(problem("kind", true, allowed("kind"))),
    };
    Ok(AccountOptions { name: name.to_owned(), url: url.trim_end_matches('/').to_owned(), kind })
}

/// Whether a value has nothing secret in it, wherever its writer put it: a shared access signature is often pasted
/// together with its URL.
fn may_be_shown(member: &str, text: &str) -> bool {
    match member {
        "key" => false,
        "url" => !text.contains(['?', '#', '@']),
        _ => !text.contains("sig="),
    }
}

/// A URL without anything secret in it.
fn is_endpoint(text: &str) -> bool {
    url::Url::parse(text).is_ok_and(|url| {
        ["http", "https"].contains(&url.scheme())
            && url.host_str().is_some()
            && url.username().is_empty()
            && url.password().is_none()
            && url.query().is_none()
            && url.fragment().is_none()
    })
}

fn read_key(file: &Path) -> Result<String, String> {
    let failed = |error: std::io::Error| format!("cannot be read: {error}");
    if KEY_BYTES_MAX < std::fs::metadata(file).map_err(failed)?.len() {
        return Err("is too large to be a key".to_owned());
    }
    Ok(std::fs::read_to_string(file).map_err(failed)?.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn account(members: &[(&'static str, &str)]) -> Accounts {
        let mut accounts = Accounts::default();
        for &(member, text) in members {
            let raw = Raw { text: text.to_owned(), place: "g.toml:1".to_owned() };
            accounts.put("letters1", member, raw);
        }
        accounts
    }

    #[test]
    fn a_signature_is_shown_nowhere_whatever_it_was_written_into() {
        let signed = "https://l.example/failed?sv=2022&sig=hunter2";
        for members in [
            [("url", signed), ("key", "sv=2022&sig=hunter2")],
            [("url", "https://user:hunter2@l.example"), ("key", "a2V5")],
            [("url", "not a url?sig=hunter2"), ("key", "a2V5")],
            [("url", "https://l.example"), ("key_file", "sv=2022&sig=hunter2")],
            [("url", "https://l.example"), ("kind", "sv=2022&sig=hunter2")],
        ] {
            let accounts = account(&members);
            let mut problems = Vec::new();
            accounts.settle(&mut problems);
            assert_eq!(problems.len(), 1, "{members:?}");
            let shown = format!("{} {:?}", super::super::report::Report(problems), accounts.in_force());
            assert!(!shown.contains("hunter2"), "{shown}");
        }
    }

    #[test]
    fn what_is_no_secret_is_shown() {
        let accounts = account(&[("url", "https://l.example"), ("key", "a2V5"), ("kind", "gcs")]);
        let shown: Vec<String> = accounts.in_force().into_iter().map(|[_, value, _]| value).collect();
        assert_eq!(shown, ["***", "gcs", "https://l.example"]);
        let mut problems = Vec::new();
        accounts.settle(&mut problems);
        assert_eq!(problems[0].found.as_deref(), Some("gcs"));
    }
}
