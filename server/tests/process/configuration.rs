//! What the command line, the environment and the file say, and what is said of it.

use std::{
    fs,
    io::{Read, Write},
    net::TcpListener,
    os::unix::ffi::OsStrExt,
    process::{Command, Stdio},
};

use sluice_server::ServerConfig;
use sluice_service::config::{ConfigFile, Layers, load_and_check, render};

use crate::common::child::{Output, ServerProcess, script};

fn printed(arguments: &[&str], prepare: impl FnOnce(&mut Command)) -> toml::Table {
    let Output { code, stdout, stderr } = ServerProcess::output(&[arguments, &["--print-config"]].concat(), prepare);
    assert_eq!((code, stderr.as_str()), (Some(0), ""), "{stdout}");
    stdout.parse().expect("TOML")
}

#[test]
fn file_then_environment_then_flags() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("server.toml");
    let text = "listen = \"127.0.0.1:1\"\nmetrics_listen = \"127.0.0.1:2\"\ndefault_deadline = \"7s\"\n\
                [grpc]\nmax_connections = 11\nmax_concurrent_streams = 12\n\
                [[model]]\nname = \"of the file\"\nsource = \"default\"\n";
    fs::write(&file, text).expect("writable");
    let file = file.to_str().expect("text");
    let flags =
        ["--config", file, "--listen", "127.0.0.1:3", "--model", "first=hf:org/name", "--model", "second=default"];
    let config = printed(&flags, |command| {
        command.env("SLUICE_LISTEN", "127.0.0.1:4").env("SLUICE_METRICS_LISTEN", "127.0.0.1:5");
        command.env("SLUICE_GRPC__MAX_CONNECTIONS", "13").env("SLUICE_DRAIN__GRACE", "250ms");
        // Of the client, of the tests, and of Kubernetes for a Service of that name.
        command.env("SLUICE_URL", "http://127.0.0.1:6").env("SLUICE_REQUIRE_MODEL", "1");
        command.env("SLUICE_SERVER_SERVICE_HOST", "10.0.0.1").env("SLUICE_PORT", "tcp://10.0.0.1:50051");
    });
    let at = |path: &[&str]| path.iter().fold(&toml::Value::Table(config.clone()), |value, key| &value[*key]).clone();
    let cases: [(&[&str], toml::Value); 6] = [
        (&["listen"], "127.0.0.1:3".into()),
        (&["metrics_listen"], "127.0.0.1:5".into()),
        (&["default_deadline"], "7s".into()),
        (&["grpc", "max_connections"], 13.into()),
        (&["grpc", "max_concurrent_streams"], 12.into()),
        (&["drain", "grace"], "250ms".into()),
    ];
    for (path, expected) in cases {
        assert_eq!(at(path), expected, "{path:?}");
    }
    let names: Vec<_> = config["model"].as_array().expect("models").iter().map(|model| model["name"].clone()).collect();
    assert_eq!(names, ["first".into(), "second".into()], "flags replace the file's models");
}

#[test]
fn what_is_printed_loads_back() {
    let Output { code, stdout, .. } = ServerProcess::output(&["--print-config"], |_| ());
    assert_eq!(code, Some(0));
    let mut expected = ServerConfig::default();
    // The tests' own servers keep no scores.
    expected.score_cache.bytes_max = 0;
    assert_eq!(stdout.trim_end(), render(&expected).trim_end(), "nothing given: the default");
    let file = Some(ConfigFile { path: "printed".into(), text: stdout.clone() });
    let config = load_and_check(&Layers { file, ..Layers::default() }, ServerConfig::faults).expect("no faults");
    assert_eq!(render(&config).trim_end(), stdout.trim_end());
}

#[test]
fn every_fault_is_reported_together_with_its_place() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("server.toml");
    let text = "listen = \"nowhere\"\nspeed = \"fast\"\n\n[drain]\ngrace = \"soon\"\n\n[limits]\nquery_bytes_max = 0\n";
    fs::write(&file, text).expect("writable");
    let place = |line: u32| format!("({}:{line})", file.display());
    let arguments = [
        &["--config", file.to_str().expect("text"), "--device", "abacus"],
        &["--model", "twin=default", "--model", "twin=hf:no-organisation"],
        &["--model", "without-a-source", "--print-config"][..],
    ];
    let Output { code, stdout, stderr } = ServerProcess::output(&arguments.concat(), |command| {
        command.env("SLUICE_GRPC__MAX_MESSAGE_SIZE", "much").env("SLUICE_LOG__FILTER", "=");
        command.env("SLUICE_GRPC__MAX_CONNECTIONS", "0").env("SLUICE_COLOUR", "red");
    });
    assert_eq!((code, stdout.as_str()), (Some(2), ""), "{stderr}");
    let flag = "(command line)".to_owned();
    let variable = |name: &str| format!("(environment variable {name})");
    let expected = [
        ("--model \"without-a-source\": ", "NAME=SOURCE".to_owned()),
        ("colour: unknown key", variable("SLUICE_COLOUR")),
        ("device: unknown device `abacus`", flag.clone()),
        ("drain.grace: invalid duration \"soon\"", place(5)),
        ("grpc.max_connections: must be at least 1", variable("SLUICE_GRPC__MAX_CONNECTIONS")),
        ("grpc.max_message_size: invalid size \"much\"", variable("SLUICE_GRPC__MAX_MESSAGE_SIZE")),
        ("limits.query_bytes_max: must be at least 1", place(8)),
        ("listen: invalid socket address", place(1)),
        ("log.filter: invalid log filter", variable("SLUICE_LOG__FILTER")),
        ("model[1].name: is used twice", flag.clone()),
        ("model[1].source: model source \"hf:no-organisation\"", flag),
        ("speed: unknown key", place(2)),
    ];
    let lines: Vec<&str> = stderr.lines().filter(|line| !line.is_empty()).collect();
    assert_eq!(lines.len(), expected.len(), "a line for each fault:\n{stderr}");
    for (line, (begin, end)) in lines.iter().zip(expected) {
        assert!(line.starts_with(begin) && line.ends_with(&end), "{line:?}: expected {begin:?} … {end:?}");
    }
}

#[test]
fn a_device_that_is_not_there_is_said_and_nothing_is_served() {
    let folder = tempfile::tempdir().expect("a folder");
    let script = folder.path().join("model.toml");
    fs::write(&script, "max_tokens = 64\n").expect("writable");
    let model = format!("model=scripted:{}", script.display());
    // Hides those that this machine may have.
    let hidden = |command: &mut Command| {
        command.env("CUDA_VISIBLE_DEVICES", "");
    };
    for device in ["cuda", "cuda:1", "cuda:0,1", "cuda:all"] {
        let output = ServerProcess::output(&["--device", device, "--model", &model, "--listen", "127.0.0.1:0"], hidden);
        assert_eq!(output.code, Some(1), "{output:?}");
        assert!(output.stderr.contains("device: "), "{output:?}");
        assert!(!output.stderr.contains("panicked"), "{output:?}");
    }
    let arguments = ["--device", "auto", "--model", &model, "--listen", "127.0.0.1:0"];
    let mut server = ServerProcess::start_with(&arguments, hidden);
    let reason = server.logged("no CUDA device is used")["reason"].to_string();
    assert!(reason.contains("CUDA"), "{reason}");
    server.serving();
}

#[test]
fn wrong_usage_ends_with_2_and_help_with_0() {
    let unknown = "expected `auto`, `cpu`, `cuda`, `cuda:N`, `cuda:N,M,…` or `cuda:all`";
    let cases: [(&[&str], i32, &str); 12] = [
        (&["--help"], 0, "--metrics-listen <ADDR>"),
        (&["--version"], 0, env!("CARGO_PKG_VERSION")),
        (&["--nonsense"], 2, "--nonsense"),
        (&["--exit"], 2, "--quickstart"),
        (&["--listen", "nowhere"], 2, "nowhere"),
        (&["--device", "quantum"], 2, &format!("device: unknown device `quantum`, {unknown}")),
        (&["--device", "cuda:"], 2, &format!("device: unknown device `cuda:`, {unknown}")),
        (&["--device", "cuda:x"], 2, &format!("device: unknown device `cuda:x`, {unknown}")),
        (&["--device", "cuda:1,1"], 2, "device: `cuda:1,1` names device 1 twice"),
        (&["--model", "nothing"], 2, "NAME=SOURCE"),
        (&["--model", "=default"], 2, "model[0].name: must be 1 to 256 bytes"),
        (&["--config", "/nonexistent/server.toml"], 2, "cannot read /nonexistent/server.toml: No such file"),
    ];
    for (arguments, code, says) in cases {
        let output = ServerProcess::output(arguments, |_| ());
        assert_eq!(output.code, Some(code), "{arguments:?}: {output:?}");
        let text = if code == 0 { &output.stdout } else { &output.stderr };
        assert!(text.contains(says), "{arguments:?}: expected {says:?} in {output:?}");
    }
}

#[test]
fn a_file_that_is_not_toml_is_named_with_its_line() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("server.toml");
    fs::write(&file, "device = \"cpu\"\nlisten = \n").expect("writable");
    let Output { code, stderr, .. } = ServerProcess::output(&["--config", file.to_str().expect("text")], |_| ());
    assert_eq!(code, Some(2));
    assert!(stderr.contains("not TOML: ") && stderr.contains(&format!("{}:2", file.display())), "{stderr}");
}

#[test]
fn foreign_variables_need_not_be_text() {
    let output = ServerProcess::output(&["--print-config"], |command| {
        command.env("LESS_TERMCAP", std::ffi::OsStr::from_bytes(b"\xff\xfe"));
    });
    assert_eq!(output.code, Some(0), "{}", output.stderr);
    let output = ServerProcess::output(&["--print-config"], |command| {
        command.env("SLUICE_LISTEN", std::ffi::OsStr::from_bytes(b"\xff\xfe"));
    });
    assert_eq!(output.code, Some(2));
    assert!(output.stderr.contains("environment variable SLUICE_LISTEN"), "{}", output.stderr);
}

#[test]
fn a_reader_that_leaves_is_a_failure_and_no_panic() {
    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);
    let output = ServerProcess::output(&["--print-config"], |command| {
        command.stdout(writer);
    });
    assert_eq!(output.code, Some(1), "{}", output.stderr);
    assert!(output.stderr.starts_with("sluice-server: Broken pipe"), "{}", output.stderr);
}

#[test]
fn a_port_in_use_is_said_in_one_line() {
    let folder = tempfile::tempdir().expect("a folder");
    let model = format!("model={}", script(folder.path(), ""));
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("bound").to_string();
    for (listen, metrics) in [(address.as_str(), "127.0.0.1:0"), ("127.0.0.1:0", address.as_str())] {
        let arguments = ["--model", &model, "--listen", listen, "--metrics-listen", metrics];
        let Output { code, stdout, stderr } = ServerProcess::output(&arguments, |_| ());
        let expected = format!("sluice-server: cannot listen on {address}: Address already in use (os error 98)");
        assert_eq!((code, stdout.as_str()), (Some(1), ""), "{stderr}");
        let said = if cfg!(target_os = "linux") { stderr.trim_end() == expected } else { stderr.lines().count() == 1 };
        assert!(said, "{stderr}");
    }
}

#[test]
fn neither_standard_input_nor_a_lost_log_is_needed() {
    let folder = tempfile::tempdir().expect("a folder");
    let model = format!("model={}", script(folder.path(), ""));
    // `<&-` closes it, which is less than /dev/null.
    let mut command = Command::new("/bin/sh");
    command.args(["-c", "exec \"$0\" \"$@\" <&-", env!("CARGO_BIN_EXE_sluice-server")]);
    command.args(["--model", &model, "--listen", "127.0.0.1:0"]).stdout(Stdio::null()).stderr(Stdio::piped());
    command.env_clear().env("HOME", folder.path()).env("SLUICE_DRAIN__GRACE", "0s");
    let mut child = Guard(command.spawn().expect("a shell"));
    let mut log = child.0.stderr.take().expect("piped");
    let mut seen = Vec::new();
    let mut piece = [0; 256];
    let address = loop {
        let read = log.read(&mut piece).expect("a pipe");
        assert!(read > 0, "it ended: {}", String::from_utf8_lossy(&seen));
        seen.extend_from_slice(&piece[..read]);
        let text = String::from_utf8_lossy(&seen).into_owned();
        let serving = text.lines().find(|line| line.ends_with('}') && line.contains("\"serving\""));
        if let Some(event) = serving.and_then(|line| serde_json::from_str::<serde_json::Value>(line).ok()) {
            break event["listen"].as_str().expect("an address").to_owned();
        }
    };
    // From here on each line of its log is a broken pipe.
    drop(log);
    let kill = format!("kill -TERM {}", child.0.id());
    let mut http = std::net::TcpStream::connect(&address).expect("it listens");
    http.write_all(b"not HTTP/2 at all\r\n\r\n").expect("a loopback");
    assert!(Command::new("sh").args(["-c", &kill]).status().expect("a shell").success());
    let status = child.0.wait().expect("a child of ours");
    assert_eq!(status.code(), Some(0), "{status:?}");
}

/// A process that ends with this value.
struct Guard(std::process::Child);

impl Drop for Guard {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn no_arguments_are_no_fault_of_configuration() {
    // The default model is looked for, and there is none: a failure, not wrong usage.
    let folder = tempfile::tempdir().expect("a folder");
    let output = ServerProcess::output::<&str>(&[], |command| {
        command.env("PATH", folder.path()).env("HF_HUB_OFFLINE", "1").env("SLUICE_LISTEN", "127.0.0.1:0");
    });
    assert_eq!(output.code, Some(1), "{}", output.stderr);
    let message = output.stderr.split_once("sluice-server: ").expect("it says why").1;
    for part in ["no source has the model default", "the hub is set to offline", "pip is not installed"] {
        assert_eq!(message.matches(part).count(), 1, "{part:?}, once, in {message}");
    }
}
