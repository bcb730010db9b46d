use std::{collections::BTreeMap, time::Duration};

use serde::{Deserialize, Serialize};

use super::*;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
struct Config {
    name: String,
    server: Server,
    models: Vec<Model>,
    limits: BTreeMap<String, u32>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
struct Server {
    listen: std::net::SocketAddr,
    threads: u8,
    ratio: f64,
    reflection: bool,
    #[serde(with = "duration")]
    grace: Duration,
    #[serde(with = "duration::optional")]
    max_age: Option<Duration>,
    #[serde(with = "bytes")]
    max_message: u64,
    device: Device,
    tags: Vec<String>,
    password: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Model {
    name: String,
    source: String,
    #[serde(default)]
    max_tokens: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Device {
    Auto,
    Cpu,
}

impl Default for Config {
    fn default() -> Self {
        Self { name: "sluice".into(), server: Server::default(), models: Vec::new(), limits: BTreeMap::new() }
    }
}

impl Default for Server {
    fn default() -> Self {
        Self {
            listen: ([127, 0, 0, 1], 50051).into(),
            threads: 2,
            ratio: 0.5,
            reflection: true,
            grace: Duration::from_secs(3),
            max_age: None,
            max_message: 16 << 20,
            device: Device::Auto,
            tags: Vec::new(),
            password: None,
        }
    }
}

fn layers(file: &str, environment: &[(&str, &str)], flags: &str) -> Layers {
    Layers {
        file: (!file.is_empty()).then(|| ConfigFile { path: "sluice.toml".into(), text: file.into() }),
        environment: environment.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect(),
        flags: toml::from_str(flags).unwrap(),
    }
}

fn check_faults(layers: &Layers, expected: &[&str]) {
    let faults = load::<Config>(layers).expect_err("faults were expected");
    assert_eq!(faults.to_string(), expected.join("\n"));
}

#[test]
fn later_layers_overrule_earlier_ones_key_by_key() {
    let file = "name = 'file'\n[server]\nthreads = 3\nratio = 0.25\ngrace = '5s'\n";
    let environment = [("SLUICE_SERVER__THREADS", "4"), ("SLUICE_SERVER__GRACE", "6s"), ("HOME", "/"), ("SLUICE", "x")];
    let config: Config = load(&layers(file, &environment, "server.grace = '7s'")).unwrap();
    let server = Server { threads: 4, ratio: 0.25, grace: Duration::from_secs(7), ..Server::default() };
    assert_eq!(config, Config { name: "file".into(), server, ..Config::default() });
    assert_eq!(load::<Config>(&Layers::default()).unwrap(), Config::default());
}

#[test]
fn variables_take_the_type_of_their_field() {
    let check = |variable: &str, text: &str, expected: fn(&mut Config)| {
        let mut config = Config::default();
        expected(&mut config);
        assert_eq!(load::<Config>(&layers("", &[(variable, text)], "")).unwrap(), config, "{variable}={text}");
    };
    check("SLUICE_NAME", "plain", |config| config.name = "plain".into());
    check("SLUICE_NAME", "'quoted'", |config| config.name = "quoted".into());
    check("SLUICE_NAME", "5", |config| config.name = "5".into());
    check("SLUICE_NAME", "true", |config| config.name = "true".into());
    check("SLUICE_NAME", "2026-01-01", |config| config.name = "2026-01-01".into());
    check("SLUICE_NAME", "[a", |config| config.name = "[a".into());
    check("SLUICE_NAME", "", |config| config.name = String::new());
    check("SLUICE_SERVER__LISTEN", "[::1]:8", |config| config.server.listen = "[::1]:8".parse().unwrap());
    check("SLUICE_SERVER__THREADS", "7", |config| config.server.threads = 7);
    check("SLUICE_SERVER__RATIO", "0.75", |config| config.server.ratio = 0.75);
    check("SLUICE_SERVER__REFLECTION", "false", |config| config.server.reflection = false);
    check("SLUICE_SERVER__GRACE", "250ms", |config| config.server.grace = Duration::from_millis(250));
    check("SLUICE_SERVER__MAX_AGE", "1h", |config| config.server.max_age = Some(Duration::from_secs(3600)));
    check("SLUICE_SERVER__MAX_MESSAGE", "1MiB", |config| config.server.max_message = 1 << 20);
    check("SLUICE_SERVER__MAX_MESSAGE", "4096", |config| config.server.max_message = 4096);
    check("SLUICE_SERVER__DEVICE", "cpu", |config| config.server.device = Device::Cpu);
    check("SLUICE_SERVER__TAGS", "['a', 'b']", |config| config.server.tags = vec!["a".into(), "b".into()]);
    check("SLUICE_SERVER__PASSWORD", "1234", |config| config.server.password = Some("1234".into()));
    check("SLUICE_LIMITS__TOKENS", "9", |config| config.limits = BTreeMap::from([("tokens".into(), 9)]));
    check("SLUICE_SERVER", "{ threads = 7 }", |config| config.server.threads = 7);
}

#[test]
fn every_fault_is_reported_with_its_source() {
    let file = "\
nme = 'typo'
[server]
threads = 300
listen = '127.0.0.1:1'
grace = 5
[[models]]
name = 'a'
source = 7
[[models]]
name = 'b'
sorce = 'hf:b'
[[models]]
name = 'c'
source = 'hf:c'
max_tokens = 'many'
";
    let environment = [
        ("SLUICE_SERVER__RATIO", "half"),
        ("SLUICE_SERVER__MAX_MESSAGE", "-1"),
        ("SLUICE_LISTEN", "x"),
        ("SLUICE_A__", "x"),
    ];
    check_faults(
        &layers(file, &environment, "server.device = 'tpu'\nserver.tags = 'a'"),
        &[
            "SLUICE_A__: not the name of a key: expected SLUICE_KEY or SLUICE_TABLE__KEY (environment variable SLUICE_A__)",
            "listen: unknown key, expected one of: limits, models, name, server (environment variable SLUICE_LISTEN)",
            "models[0].source: invalid type: integer `7`, expected a string (sluice.toml:8)",
            "models[1].sorce: unknown key (sluice.toml:11)",
            "models[1].source: missing, and there is no default (sluice.toml:9)",
            "models[2].max_tokens: invalid type: string \"many\", expected u32 (sluice.toml:15)",
            "nme: unknown key, expected one of: limits, models, name, server (sluice.toml:1)",
            "server.device: unknown variant `tpu`, expected `auto` or `cpu` (command line)",
            "server.grace: invalid type: integer `5`, expected a duration such as \"250ms\", \"30s\" or \"1h30m\" (sluice.toml:5)",
            "server.max_message: invalid size -1, expected a size such as \"16MiB\", \"64KiB\" or 4096 (bytes) (environment variable SLUICE_SERVER__MAX_MESSAGE)",
            "server.ratio: invalid type: string \"half\", expected f64 (environment variable SLUICE_SERVER__RATIO)",
            "server.tags: invalid type: string \"a\", expected a sequence (command line)",
            "server.threads: invalid value: integer `300`, expected u8 (sluice.toml:3)",
        ],
    );
}

#[test]
fn a_variable_with_two_readings_is_faulted_once_by_the_better_one() {
    let check = |variable: &str, text: &str, expected: &str| {
        check_faults(&layers("", &[(variable, text)], ""), &[&format!("{expected} (environment variable {variable})")]);
    };
    check("SLUICE_SERVER__THREADS", "300", "server.threads: invalid value: integer `300`, expected u8");
    check("SLUICE_SERVER__REFLECTION", "yes", "server.reflection: invalid type: string \"yes\", expected a boolean");
    check(
        "SLUICE_MODELS",
        "[{name = 'a', source = 1}]",
        "models[0].source: invalid type: integer `1`, expected a string",
    );
    check("SLUICE_MODELS", "[{name = 'a'}]", "models[0].source: missing, and there is no default");
}

#[test]
fn a_table_and_a_value_cannot_share_a_key() {
    check_faults(
        &layers("server = 5", &[("SLUICE_SERVER__THREADS", "4")], ""),
        &["server: expected a table, because `server.threads` is set as well (sluice.toml:1)"],
    );
    check_faults(
        &layers("", &[("SLUICE_SERVER", "5")], ""),
        &["server: invalid type: integer `5`, expected struct Server (environment variable SLUICE_SERVER)"],
    );
}

#[test]
fn a_file_that_is_not_toml_hides_no_other_fault() {
    #[derive(Debug, Serialize, Deserialize)]
    struct Strict {
        needed: u8,
        #[serde(default)]
        other: u8,
    }
    let layers = layers("needed = 1\nother = = 2\nneeded = 3\n", &[("SLUICE_OTHER", "x")], "");
    let faults = load_and_check::<Strict>(&layers, |_| vec![ConfigFault::new("needed", "must not be called")]);
    let text = faults.unwrap_err().to_string();
    let lines: Vec<_> = text.lines().collect();
    assert!(lines[0].starts_with("(file): not TOML: ") && lines[0].ends_with("(sluice.toml:2)"), "{text}");
    assert_eq!(
        lines.last(),
        Some(&"other: invalid type: string \"x\", expected u8 (environment variable SLUICE_OTHER)")
    );
    assert!(!text.contains("missing") && !text.contains("called"), "{text}");
}

#[test]
fn checks_are_reported_with_what_does_not_load() {
    let check = |config: &Config| {
        assert_eq!(config.server.threads, 2, "what does not load keeps its default");
        vec![
            ConfigFault::new("server.threads", "is about a value nobody set"),
            ConfigFault::new("server.ratio", "must be at most 1"),
            ConfigFault::new("models", "at least one is needed"),
        ]
    };
    let layers = layers("[server]\nthreads = 'x'\nratio = 1.5\n", &[], "");
    let faults = load_and_check::<Config>(&layers, check).unwrap_err();
    assert_eq!(
        faults.to_string(),
        "models: at least one is needed (not set)\n\
         server.ratio: must be at most 1 (sluice.toml:3)\n\
         server.threads: invalid type: string \"x\", expected u8 (sluice.toml:2)"
    );
    assert_eq!(faults.0[1].source, Source::File { path: "sluice.toml".into(), line: 3 });
}

#[test]
fn a_missing_root_value_is_a_fault() {
    #[derive(Debug, Serialize, Deserialize)]
    struct Strict {
        needed: u8,
    }
    let faults = load::<Strict>(&layers("nedded = 1", &[], "")).unwrap_err();
    assert_eq!(
        faults.to_string(),
        "nedded: unknown key (sluice.toml:1)\nneeded: missing, and there is no default (not set)"
    );
}

#[test]
fn what_is_rendered_loads_back() {
    let model = |name: &str| Model { name: name.into(), source: format!("hf:{name}"), max_tokens: 7 };
    let server = Server { max_age: Some(Duration::from_millis(1_500)), ratio: 1e-9, ..Server::default() };
    let full = Config {
        name: "a \"quoted\"\nname".into(),
        server: Server { tags: vec!["x".into()], password: Some("p".into()), ..server },
        models: vec![model("a"), model("b")],
        limits: BTreeMap::from([("with.dot".into(), 1)]),
    };
    for config in [Config::default(), full] {
        let text = render(&config);
        assert_eq!(load::<Config>(&layers(&text, &[], "")).unwrap(), config, "{text}");
    }
}

#[test]
fn what_others_say_with_our_prefix_is_no_configuration() {
    let variables = [("SLUICE_LISTEN", "x"), ("SLUICE_TOKEN", "secret"), ("SLUICE_KILLS", "200"), ("HOME", "/")];
    let own = own_variables(variables.map(|(name, value)| (name.into(), value.into())));
    assert_eq!(own, [("SLUICE_LISTEN", "x"), ("HOME", "/")].map(|(name, value)| (name.to_owned(), value.to_owned())));
}
