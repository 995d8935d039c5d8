//! The first command of the README works, and says so.

mod support;

#[test]
fn the_demo_shows_push_and_pull_and_ends_well() {
    let output = support::program().args(["demo", "--once"]).output().expect("the program runs");
    let said = String::from_utf8_lossy(&output.stdout);
    let complained = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}\n{complained}");
    for number in 1..=3 {
        assert!(said.contains(&format!("id=order.paid-{number}")), "push {number}\n{said}");
        assert!(said.contains(&format!("id=job.created-{number}")), "pull {number}\n{said}");
    }
    assert!(said.contains("acknowledged 3"), "{said}");
    assert!(!said.contains('\x1b'), "no colours in a pipe\n{said}");
    let directory = said.lines().find_map(|line| line.split("a server in ").nth(1)).expect("it says where");
    assert!(!std::path::Path::new(directory).exists(), "{directory} is removed");
}
