//! The real binary: exit codes and output.

use std::process::{Command, Output, Stdio};

const SECRET: &str = "hunter2-secret";

/// The binary with nothing of this process's environment.
fn gateway(arguments: &[&str], variables: &[(&str, &str)]) -> Output {
    let output = command(arguments, variables).output().expect("the binary can be run");
    for stream in [&output.stdout, &output.stderr] {
        assert!(!String::from_utf8_lossy(stream).contains(SECRET), "a secret was shown");
    }
    output
}

fn command(arguments: &[&str], variables: &[(&str, &str)]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_federation-gateway"));
    command.args(arguments).env_clear().envs(variables.iter().copied()).stdin(Stdio::null());
    command
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).expect("output is text")
}

const CREDENTIALS: [(&str, &str); 2] = [("FEDERATION_APP_KEY", "key"), ("FEDERATION_APP_SECRET", SECRET)];

#[test]
fn check_prints_the_settings() {
    let output = gateway(&["check", "--poll-min", "2s"], &CREDENTIALS);
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(text(&output.stderr), "", "nothing logs");
    let shown = text(&output.stdout);
    assert!(shown.starts_with("listen = 127.0.0.1:50051 (default)\n"), "{shown}");
    assert!(shown.contains("\npoll-min = 2s (flag --poll-min)\n"), "{shown}");
    assert!(shown.contains("\napp-secret = [hidden] (variable FEDERATION_APP_SECRET)\n"), "{shown}");
}

#[test]
fn bad_settings_are_told_line_by_line() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("gateway.toml");
    std::fs::write(&path, format!("poll-min = \"1ms\"\napp-secret = {SECRET}\n")).unwrap();
    let path = path.to_str().unwrap();
    for name in ["check", "serve"] {
        let output = gateway(&[name, "--config", path, "--max-attempts=0"], &[("FEDERATION_LOG", "a=b=c")]);
        assert_eq!(output.status.code(), Some(2));
        assert_eq!(text(&output.stdout), "");
        let lines: Vec<_> = text(&output.stderr).lines().collect();
        let names: Vec<_> = lines.iter().map(|line| line.split(':').next().unwrap()).collect();
        assert_eq!(names, ["config", "max-attempts", "poll-min", "log"], "{lines:#?}");
        assert!(lines[0].contains(&format!("({path}:2:14)")), "{lines:#?}");
    }
}

#[test]
fn credentials_are_required_without_the_sandbox_and_refused_with_it() {
    let output = gateway(&["serve"], &[]);
    assert_eq!(output.status.code(), Some(2));
    assert_eq!(text(&output.stderr).lines().count(), 2);
    let output = gateway(&["serve", "--sandbox"], &CREDENTIALS);
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).starts_with("app-key: can't be combined with --sandbox"));
}

#[test]
fn connecting_is_still_to_come() {
    let output = gateway(&["check", "--connect"], &CREDENTIALS);
    assert_eq!(output.status.code(), Some(2));
    assert_eq!(text(&output.stderr), "--connect: not supported by this version\n");
}

#[test]
fn usage() {
    for (arguments, code) in [
        (&["--version"][..], 0),
        (&["--help"], 0),
        (&["help", "serve"], 0),
        (&["check", "--help"], 0),
        (&[], 2),
        (&["dance"], 2),
        (&["check", "--no-such"], 2),
        (&["check", "--poll-min"], 2),
        (&["serve", "--poll-min", "1s", "--poll-min", "2s"], 2),
        (&["check", "--sandbox"], 2),
    ] {
        let output = gateway(arguments, &CREDENTIALS);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}");
        let (told, silent) =
            if code == 0 { (output.stdout, output.stderr) } else { (output.stderr, output.stdout) };
        assert!(!told.is_empty() && silent.is_empty(), "{arguments:?}");
    }
    let version = gateway(&["--version"], &[]);
    assert_eq!(text(&version.stdout), concat!("federation-gateway ", env!("CARGO_PKG_VERSION"), "\n"));
}

#[test]
fn a_secret_on_the_command_line_is_not_repeated() {
    for arguments in [&["serve", "--app-secret=hunter2-secret"][..], &["serve", "--app-secret", SECRET]] {
        assert_eq!(gateway(arguments, &[]).status.code(), Some(2));
    }
}

#[test]
fn a_reader_that_left_is_no_panic() {
    for arguments in [&["check"][..], &["--help"], &["serve", "--help"]] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let output = command(arguments, &CREDENTIALS).stdout(writer).output().unwrap();
        assert_eq!((output.status.code(), text(&output.stderr)), (Some(0), ""), "{arguments:?}");
    }
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let status = command(&["check"], &[]).stderr(writer).status().unwrap();
    assert_eq!(status.code(), Some(2));
}

#[test]
fn an_address_that_is_none_is_bad_usage_of_the_sandbox() {
    for address in ["nonsense", ":1", "127.0.0.1:", "127.0.0.1:99999"] {
        let output = gateway(&["sandbox", "--listen", address], &[]);
        assert_eq!(output.status.code(), Some(2), "{address}");
        assert!(text(&output.stderr).contains("--listen"), "{address}");
    }
}
