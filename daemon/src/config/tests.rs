use super::*;

/// Writes files into a folder and loads the first.
fn load(files: &[(&str, &str)]) -> (tempfile::TempDir, Result<Document, ConfigError>) {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in files {
        let path = folder.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
    let loaded = Document::load(&folder.path().join(files[0].0));
    (folder, loaded)
}

fn config(text: &str) -> Config {
    let (_folder, document) = load(&[("config.toml", text)]);
    Config::build(document.unwrap(), &Overrides::default()).unwrap()
}

/// The error and all its causes.
fn whole(error: &ConfigError) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

#[test]
fn what_a_managing_dockerd_writes_is_taken_without_an_unknown_key() {
    let config = config(
        r#"
        disabled_plugins = ["io.containerd.grpc.v1.cri"]
        imports = []
        oom_score = 0
        plugin_dir = ""
        required_plugins = []
        root = "/var/lib/docker/containerd/daemon"
        state = "/var/run/docker/containerd/daemon"
        temp = ""
        version = 2
        [cgroup]
          path = ""
        [debug]
          address = "/var/run/docker/containerd/containerd-debug.sock"
          format = ""
          gid = 0
          level = "debug"
          uid = 0
        [grpc]
          address = "/var/run/docker/containerd/containerd.sock"
          gid = 0
          max_recv_message_size = 16777216
          max_send_message_size = 16777216
          tcp_address = ""
          uid = 0
        [metrics]
          address = ""
          grpc_histogram = false
        [plugins]
        [proxy_plugins]
        [stream_processors]
        [timeouts]
          "io.containerd.timeout.shim.shutdown" = "7s"
        [ttrpc]
          address = ""
          gid = 0
          uid = 0
        "#,
    );
    assert_eq!(config.root, Path::new("/var/lib/docker/containerd/daemon"));
    assert_eq!(config.ttrpc.address, Path::new("/var/run/docker/containerd/containerd.sock.ttrpc"));
    assert_eq!(config.log.level, Level::Debug);
    assert_eq!(config.timeout("io.containerd.timeout.shim.shutdown"), Some(Duration::from_secs(7)));
    assert!(config.is_disabled("io.containerd.grpc.v1", "cri"));
    let warned: Vec<_> = config.document.warnings().iter().map(|warning| warning.key.as_str()).collect();
    assert_eq!(warned, [] as [&str; 0]);
}

#[test]
fn what_dockerd_20_10_writes_is_taken_too() {
    let config = config(
        r#"
        version = 0
        root = "/var/lib/docker/containerd/daemon"
        state = "/var/run/docker/containerd/daemon"
        temp = ""
        plugin_dir = ""
        disabled_plugins = ["cri"]
        oom_score = -500
        [grpc]
          address = "/var/run/docker/containerd/containerd.sock"
          tcp_tls_cert = ""
          uid = 0
          max_recv_message_size = 16777216
        [ttrpc]
          address = ""
        [debug]
          address = "/var/run/docker/containerd/containerd-debug.sock"
          level = "info"
          format = ""
        [plugins]
          [plugins.linux]
            shim = "containerd-shim"
            runtime = "runc"
            no_shim = false
          [plugins.scheduler]
            mutation_threshold = 5
        "#,
    );
    assert!(config.is_disabled("io.containerd.grpc.v1", "cri"));
    assert_eq!((config.oom_score, config.gc.mutation_threshold), (-500, 5));
    let mut warned: Vec<_> = config.document.warnings().iter().map(|warning| warning.key.as_str()).collect();
    warned.sort_unstable();
    let linux = |key| format!("plugins.\"io.containerd.runtime.v1.linux\".{key}");
    assert_eq!(warned, [linux("runtime"), linux("shim")]);
}

#[test]
fn flags_count_more_than_the_file_and_the_ttrpc_socket_follows() {
    let (_folder, document) = load(&[("c", "version = 2\nroot = '/a'\nstate = '/b'\n[grpc]\naddress = '/c'\nuid = 7")]);
    let flags = Overrides { address: Some("/d".into()), level: Some(Level::Trace), ..Default::default() };
    let config = Config::build(document.unwrap(), &flags).unwrap();
    assert_eq!((config.root, config.state), ("/a".into(), "/b".into()));
    assert_eq!(config.ttrpc, Socket { address: "/d.ttrpc".into(), uid: 7, gid: 0 });
    assert_eq!(config.log.level, Level::Trace);
}

#[test]
fn version_four_has_its_sockets_among_the_plugins() {
    let config = config(
        "version = 4\n[plugins.'io.containerd.server.v1.grpc']\naddress = '/g'\nuid = 3\n\
         [plugins.'io.containerd.server.v1.metrics']\naddress = ':1338'\n\
         [plugins.'io.containerd.server.v1.debug']\naddress = '/d'\nlevel = 'debug'\n\
         [plugins.'io.containerd.server.v1.grpc-tcp']\naddress = '127.0.0.1:9'\n[other]\nx = 1",
    );
    assert_eq!((config.grpc.socket.address.to_str(), config.grpc.socket.uid), (Some("/g"), 3));
    assert_eq!(config.metrics.address, Some(([0, 0, 0, 0], 1338).into()));
    assert_eq!(config.debug.map(|socket| socket.address), Some("/d".into()));
    assert_eq!(config.log.level, Level::Debug);
    let mut warned: Vec<_> = config.document.warnings().iter().map(|warning| warning.key.as_str()).collect();
    warned.sort_unstable();
    assert_eq!(warned, ["grpc.tcp_address", "other"]);
}

#[test]
fn an_old_file_becomes_one_of_version_three_that_means_the_same() {
    let old = "version = 2\n[plugins.'io.containerd.grpc.v1.cri']\nsandbox_image = 'p:1'\nenable_selinux = true\n\
               stream_server_port = '7'\n[plugins.'io.containerd.grpc.v1.cri'.containerd]\nsnapshotter = 's'\n\
               default_runtime_name = 'crun'\n[plugins.'io.containerd.grpc.v1.cri'.registry]\nconfig_path = '/certs'";
    let new = config(old).document.migrated();
    let table: toml::Table = new.parse().unwrap();
    let at = |path: &[&str]| {
        let mut value = toml::Value::Table(table.clone());
        for part in path {
            value = value.get(*part).unwrap_or_else(|| panic!("{path:?} is not in\n{new}")).clone();
        }
        value
    };
    let (images, runtime) = ("io.containerd.cri.v1.images", "io.containerd.cri.v1.runtime");
    assert_eq!(at(&["version"]).as_integer(), Some(3));
    assert_eq!(at(&["plugins", images, "pinned_images", "sandbox"]).as_str(), Some("p:1"));
    assert_eq!(at(&["plugins", images, "snapshotter"]).as_str(), Some("s"));
    assert_eq!(at(&["plugins", images, "registry", "config_path"]).as_str(), Some("/certs"));
    assert_eq!(at(&["plugins", runtime, "enable_selinux"]).as_bool(), Some(true));
    assert_eq!(at(&["plugins", runtime, "containerd", "default_runtime_name"]).as_str(), Some("crun"));
    assert_eq!(at(&["plugins", "io.containerd.grpc.v1.cri", "stream_server_port"]).as_str(), Some("7"));
}

#[test]
fn keys_that_do_nothing_are_named() {
    let config = config(
        "version = 2\ncolour = 1\n[plugins.\"io.containerd.grpc.v1.cri\"]\nno_such_key = 'x'\n[grpc]\nadress = '/x'",
    );
    let mut warned: Vec<_> = config.document.warnings().iter().map(|warning| warning.key.as_str()).collect();
    warned.sort_unstable();
    assert_eq!(warned, ["colour", "grpc.adress", "plugins.\"io.containerd.grpc.v1.cri\".no_such_key"]);
}

#[test]
fn wrong_files_are_refused_with_file_key_and_reason() {
    for (text, words) in [
        ("version = 2\nroot = 3", "config.toml: key root must be a string, not 3"),
        ("version = 2\n[grpc]\nuid = -1", "key grpc.uid must be a whole number from 0"),
        ("version = 2\ngrpc = 1", "key grpc must be a table"),
        ("version = 2\n[debug]\nlevel = 'loud'", "key debug.level must be one of trace"),
        ("version = 2\n[timeouts]\nx = '5'", "key timeouts.x must be a duration"),
        ("version = 2\n[metadata]\nengine = 'bolt'", "key metadata.engine must be one of sled, redb"),
        ("version = 2\nimports = ['none.toml']", "cannot read configuration file"),
        ("version = 2\nroot = ", "config.toml is not valid TOML: TOML parse error at line 2"),
        ("version = 9", "version 9 is not supported"),
        ("version = 'two'", "version -1 is not supported"),
    ] {
        let (_folder, loaded) = load(&[("config.toml", text)]);
        let error = whole(&loaded.unwrap_err());
        assert!(error.contains(words), "{text}\n{error}");
    }
}

#[test]
fn values_that_do_not_go_together_are_refused() {
    let long = format!("version = 2\n[grpc]\naddress = '/{}'", "x".repeat(98));
    let sockets = format!("version = 2\n[plugins.'io.containerd.shim.v1.manager']\nsocket_dir = '/{}'", "x".repeat(42));
    for (text, words) in [
        ("version = 2\nroot = '/a'\nstate = '/a'", "must not be the same"),
        ("version = 2\nroot = 'a'", "not an absolute path"),
        (sockets.as_str(), "socket_dir: path"),
        (long.as_str(), "ttrpc.address: path"),
        ("version = 2\n[plugins.'io.containerd.gc.v1.scheduler']\npause_threshold = 0.9", "not between"),
    ] {
        let (_folder, document) = load(&[("c", text)]);
        let error = Config::build(document.unwrap(), &Overrides::default()).unwrap_err();
        assert!(whole(&error).contains(words), "{text}\n{error}");
    }
}

#[test]
fn imports_are_merged_in_order_and_read_once() {
    let (_folder, document) = load(&[
        (
            "main.toml",
            "version = 2\nroot = '/a'\ndisabled_plugins = ['x']\nimports = ['conf.d/*.toml', 'main.toml']\n[debug]\nlevel='warn'",
        ),
        ("conf.d/1.toml", "version = 2\nroot = '/b'\ndisabled_plugins = ['y']\n[debug]\nformat='json'"),
        ("conf.d/2.toml", "version = 3\nroot = '/c'\nimports = ['../other']"),
        ("conf.d/2.txt", "not read"),
        ("other", "version = 2\n[grpc]\ngid = 5"),
    ]);
    let config = Config::build(document.unwrap(), &Overrides::default()).unwrap();
    assert_eq!(config.root, Path::new("/c"));
    assert_eq!(config.disabled_plugins, ["x".to_owned(), "y".to_owned()].into());
    assert_eq!(config.log, Log { level: Level::Warn, format: Format::Json });
    assert_eq!(config.grpc.socket.gid, 5);
}

#[test]
fn what_is_dumped_can_be_read_and_says_the_same() {
    let first = config(
        "version = 3\nroot = '/r'\n[metadata]\nengine = 'redb'\n[runtimes.'io.containerd.runc.v2']\npath = '/bin/shim'\n[plugins.'io.containerd.gc.v1.scheduler']\nschedule_delay = '1m'\n[plugins.'io.containerd.transfer.v1.local']\nmax_concurrent_downloads = 7",
    );
    assert_eq!(first.transfer, Transfer { downloads: 7, uploads: 3 });
    let again = config(&first.to_toml());
    assert_eq!(again.document.warnings(), []);
    assert_eq!(Config { document: Document::default(), ..again }, Config { document: Document::default(), ..first });
    let default = config(&Config::default().to_toml());
    assert_eq!(Config { document: Document::default(), ..default }, Config::default());
}

#[test]
fn the_sockets_of_shims_are_where_their_names_fit() {
    let of = |text: &str| config(&format!("version = 2\n{text}")).shim_socket_dir();
    assert_eq!(of(""), Path::new("/run/gantry/s"));
    assert_eq!(of("state = '/x'"), Path::new("/x/s"));
    assert_eq!(of(&format!("state = '/{}'", "x".repeat(38))), Path::new(&format!("/{}/s", "x".repeat(38))));
    assert_eq!(of(&format!("state = '/{}'", "x".repeat(39))), Path::new("/run/gantry/s"));
    let configured = "[plugins.'io.containerd.shim.v1.manager']\nsocket_dir = '/y'";
    assert_eq!(of(configured), Path::new("/y"));
}
