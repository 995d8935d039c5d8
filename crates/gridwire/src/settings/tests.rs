//! Configurations that are right and wrong, by what comes of them.

use std::path::PathBuf;
use std::time::Duration;

use super::report::Report;
use super::*;

fn settle(
    file: &str,
    environment: &[(&str, &str)],
    flags: &[(&'static str, &str)],
) -> Result<Settings, Report> {
    Layers::new(&Sources {
        file: Some(("g.toml".to_owned(), file.to_owned())),
        environment: environment.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(),
        flags: flags.iter().map(|(k, v)| (*k, (*v).to_owned())).collect(),
    })
    .settle()
}

/// Expects exactly these problems: key, place, and a part of what is allowed.
fn check(file: &str, environment: &[(&str, &str)], expect: &[(&str, &str, &str)]) {
    let problems = settle(file, environment, &[]).map_or_else(|report| report.0, |_| Vec::new());
    assert_eq!(problems.len(), expect.len(), "{problems:#?}");
    for (key, place, allowed) in expect {
        let problem = problems.iter().find(|problem| problem.key == *key).expect(key);
        assert_eq!(problem.place, *place);
        assert!(problem.allowed.contains(allowed), "{problem:?}");
    }
}

#[test]
fn nothing_needs_to_be_configured() {
    let settings = settle("", &[], &[]).unwrap();
    assert_eq!(settings.http.to_string(), "127.0.0.1:8080");
    assert_eq!(settings.data_dir, PathBuf::from("./gridwire-data"));
    assert!(!settings.dev);
    assert_eq!(settings.grace_period, Duration::from_secs(10));
}

#[test]
fn flags_win_over_the_environment_over_the_file_over_defaults() {
    let file = "[listen]\nhttp = \"127.0.0.1:1\"\nhttps = \"127.0.0.1:1\"\nadmin = \"127.0.0.1:1\"";
    let environment = [("GRIDWIRE_LISTEN_HTTPS", "127.0.0.1:2"), ("GRIDWIRE_LISTEN_ADMIN", "127.0.0.1:2")];
    let settings = settle(file, &environment, &[("listen.admin", "127.0.0.1:3")]).unwrap();
    let ports = [settings.http.port(), settings.https.port(), settings.admin.port()];
    assert_eq!(ports, [1, 2, 3]);
}

#[test]
fn all_problems_are_reported_together() {
    let file = "shards = 1000\n[listen]\nhttp = \"somewhere\"\nhtps = \"127.0.0.1:0\"\n";
    check(
        file,
        &[("GRIDWIRE_GRACE_PERIOD", "soon"), ("GRIDWIRE_NONSENSE", "1")],
        &[
            ("shards", "g.toml:1", "0 to 256"),
            ("listen.http", "g.toml:3", "port 0 picks"),
            ("listen.htps", "g.toml:4", "did you mean `listen.http"),
            ("grace_period", "variable GRIDWIRE_GRACE_PERIOD", "10s"),
            ("GRIDWIRE_NONSENSE", "environment", "config schema"),
        ],
    );
}

#[test]
fn only_a_name_that_is_near_is_suggested() {
    check("foo = 1", &[], &[("foo", "g.toml:1", "config schema")]);
    check("dve = true", &[], &[("dve", "g.toml:1", "did you mean `dev`")]);
}

#[test]
fn a_file_that_is_no_toml_says_where() {
    check("dev = true\nlisten = [", &[], &[("the file", "g.toml:2", "must be TOML")]);
}

#[test]
fn a_certificate_needs_its_key() {
    check("tls.certificate = \"a.pem\"", &[], &[("tls.certificate", "g.toml:1", "needs `tls.key`")]);
}

#[test]
fn a_secret_is_not_shown_when_it_is_refused() {
    let report = settle("management_token = \"hunter2\"", &[], &[]).unwrap_err();
    assert!(!report.to_string().contains("hunter2"), "{report}");
}

#[test]
fn storage_accounts_come_from_the_file_and_from_variables() {
    let file = "[dead_letter]\ndelay = \"5m\"\n[dead_letter.accounts.letters1]\nurl = \"https://l.example/\"\n\
                [dead_letter.accounts.letters2]\nkind = \"s3\"\nurl = \"https://s3.example\"\nkey = \"id:secret\"";
    let environment = [("GRIDWIRE_DEAD_LETTER_ACCOUNTS_LETTERS1_KEY", "a2V5")];
    let settings = settle(file, &environment, &[]).unwrap();
    assert_eq!(settings.dead_letter_delay, Duration::from_secs(300));
    let [one, two] = &settings.dead_letter_accounts[..] else { panic!("two accounts") };
    assert_eq!((one.name.as_str(), one.url.as_str()), ("letters1", "https://l.example"));
    assert_eq!(one.kind, gridwire_broker::AccountKind::AzureKey("a2V5".to_owned()));
    assert!(matches!(&two.kind, gridwire_broker::AccountKind::S3 { secret, .. } if secret == "secret"));
    assert!(!format!("{settings:?}").contains("a2V5"));
}

#[test]
fn what_is_wrong_with_a_storage_account_is_said() {
    let table = |lines: &str| format!("[dead_letter.accounts.letters1]\n{lines}");
    let check = |lines: &str, key: &str, place: &str, allowed: &str| {
        let key = format!("dead_letter.accounts.letters1.{key}");
        check(&table(lines), &[], &[(key.as_str(), place, allowed)]);
    };
    let url = "url = \"https://l.example\"";
    check("key = \"x\"", "url", "g.toml:2", "https://letters1");
    check("url = \"https://l.example?sig=x\"\nkey = \"x\"", "url", "g.toml:2", "https://letters1");
    check(url, "key", "g.toml:2", "key_file");
    check(&format!("{url}\nkey_file = \"/none/such\""), "key_file", "g.toml:3", "cannot be read");
    check(&format!("{url}\nkey = \"no base64\""), "key", "g.toml:3", "an access key");
    check(&format!("{url}\nkey = \"x\"\nkind = \"s3\""), "key", "g.toml:3", "SECRET");
    check(&format!("{url}\nkey = \"x\"\nkind = \"gcs\""), "kind", "g.toml:4", "azure or s3");
    check(&format!("{url}\nkey = \"a2V5\"\nkeyfile = \"x\""), "keyfile", "g.toml:4", "did you mean");
}

#[test]
fn what_an_orchestrator_sets_is_not_ours() {
    check(
        "",
        &[("GRIDWIRE_PORT_8080_TCP", "tcp://10.0.0.1:8080"), ("GRIDWIRE_SERVICE_HOST", "10.0.0.1")],
        &[],
    );
}

#[test]
fn every_default_is_allowed_and_every_variable_is_unique() {
    settle("", &[], &[]).unwrap();
    let mut variables: Vec<_> = KEYS.iter().map(Key::variable).collect();
    variables.sort();
    variables.dedup();
    assert_eq!(variables.len(), KEYS.len());
}
