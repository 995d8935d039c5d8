//! `openapi/management.json` says what the table of kinds says, no more and no less.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::kinds::{KINDS, Kind};
use crate::request::{Target, is_management_path};

const DOCUMENT: &str = include_str!("../../../../openapi/management.json");
const SUBSCRIPTION: &str = "/subscriptions/{}";
const GROUP: &str = "/subscriptions/{}/resourceGroups/{}";
const PROVIDER: &str = "/providers/Microsoft.EventGrid";

fn document() -> Value {
    serde_json::from_str(DOCUMENT).unwrap()
}

/// A path with its parameters' names left out.
fn nameless(path: &str) -> String {
    path.split('/')
        .map(|segment| if segment.starts_with('{') { "{}" } else { segment })
        .collect::<Vec<_>>()
        .join("/")
}

/// The paths of a kind's resources.
fn paths(kind: &'static Kind) -> Vec<String> {
    let mut path = format!("{GROUP}{PROVIDER}");
    let mut paths = Vec::new();
    for level in kind.lineage() {
        if level.extension {
            paths.push(format!("{path}{PROVIDER}/{}/{{}}", level.segment));
        }
        path.extend(["/", level.segment, "/{}"]);
    }
    paths.push(path);
    paths
}

/// What the table of kinds makes of paths and methods.
fn routes() -> BTreeSet<(String, &'static str)> {
    let mut routes = BTreeSet::new();
    for kind in KINDS {
        for path in paths(kind) {
            routes.extend(["get", "put", "delete"].map(|method| (path.clone(), method)));
            if !kind.patch.members.is_empty() {
                routes.insert((path.clone(), "patch"));
            }
            routes.extend(kind.actions.iter().map(|action| (format!("{path}/{}", action.name()), "post")));
            routes.insert((path.trim_end_matches("/{}").to_owned(), "get"));
        }
        if kind.parent.is_none() {
            routes.insert((format!("{SUBSCRIPTION}{PROVIDER}/{}", kind.segment), "get"));
        }
    }
    for scope in [SUBSCRIPTION, GROUP] {
        for place in ["", "/locations/{}", "/topicTypes/{}", "/locations/{}/topicTypes/{}"] {
            routes.insert((format!("{scope}{PROVIDER}{place}/eventSubscriptions"), "get"));
        }
    }
    routes.insert((format!("{GROUP}{PROVIDER}/topics/{{}}{PROVIDER}/eventTypes"), "get"));
    for own in ["/operations", "/topicTypes", "/topicTypes/{}", "/topicTypes/{}/eventTypes"] {
        routes.insert((format!("{PROVIDER}{own}"), "get"));
    }
    routes
}

#[test]
fn the_document_has_every_route_and_no_other() {
    let document = document();
    let mut documented = BTreeSet::new();
    for (path, operations) in document["paths"].as_object().unwrap() {
        documented
            .extend(operations.as_object().unwrap().keys().map(|method| (nameless(path), method.clone())));
        let filled =
            nameless(path).replacen("{}", "11111111-2222-3333-4444-555555555555", 1).replace("{}", "abc");
        assert!(is_management_path(&filled), "{path}");
        let parsed = Target::parse(&filled);
        assert!(parsed.is_ok() || path.starts_with(PROVIDER), "{path}: {parsed:?}");
    }
    let routes: BTreeSet<_> = routes().into_iter().map(|(path, method)| (path, method.to_owned())).collect();
    let missing: Vec<_> = routes.difference(&documented).collect();
    let unknown: Vec<_> = documented.difference(&routes).collect();
    assert!(missing.is_empty() && unknown.is_empty(), "missing: {missing:#?}\nunknown: {unknown:#?}");
}

#[test]
fn the_document_has_the_status_of_every_change() {
    let document = document();
    for kind in KINDS {
        for path in paths(kind) {
            let operations =
                document["paths"].as_object().unwrap().iter().find(|(one, _)| nameless(one) == path);
            let (path, operations) = operations.unwrap();
            for (method, status) in
                [("put", 201), ("patch", kind.patch.status), ("delete", 204), ("get", 200)]
            {
                if method == "patch" && kind.patch.members.is_empty() {
                    continue;
                }
                let answers = operations[method]["responses"].as_object().unwrap();
                let successes: Vec<_> = answers.keys().filter(|status| status.starts_with('2')).collect();
                assert_eq!(successes, [&status.to_string()], "{method} {path}");
            }
        }
    }
}
