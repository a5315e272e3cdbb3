//! A pgbouncer of one test's own, in front of the server of `DATABASE_URL`.

use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;
use url::Url;

/// Where Debian and most others put it; it is often not on a user's path.
const BINARIES: [&str; 3] = [
    "/usr/sbin/pgbouncer",
    "/usr/local/sbin/pgbouncer",
    "/usr/bin/pgbouncer",
];

/// A port that was free may be taken a moment later.
const START_ATTEMPTS: usize = 5;
const START_DEADLINE: Duration = Duration::from_secs(10);

/// How it shares backends between clients.
#[derive(Debug, Clone, Copy)]
pub(crate) enum PoolMode {
    /// A backend for each transaction.
    Transaction,
    /// A backend for each client.
    Session,
}

/// A running pgbouncer. It ends with the value.
pub(crate) struct PgBouncer {
    child: Child,
    url: Url,
    _dir: TempDir,
}

impl PgBouncer {
    /// Starts one in front of a database.
    ///
    /// # Panics
    ///
    /// If it is not installed or does not start.
    pub(crate) fn start(database: &str, mode: PoolMode, pool_size: u32) -> Self {
        Self::launch(database, mode, pool_size, None)
    }

    /// The same, and whoever connects has to know this password.
    pub(crate) fn guarded(database: &str, password: &str) -> Self {
        Self::launch(database, PoolMode::Session, 10, Some(password))
    }

    fn launch(database: &str, mode: PoolMode, pool_size: u32, password: Option<&str>) -> Self {
        let server = Url::parse(database).expect("a database URL");
        let binary = BINARIES
            .into_iter()
            .find(|path| Path::new(path).exists())
            .unwrap_or_else(|| {
                panic!("pgbouncer is not installed: apt-get install -y --no-install-recommends pgbouncer")
            });
        for _ in 0..START_ATTEMPTS {
            if let Some(started) = Self::try_start(binary, &server, (mode, pool_size), password) {
                return started;
            }
        }
        panic!("pgbouncer did not start; its output is above")
    }

    /// The same database, through the pooler.
    pub(crate) fn url(&self) -> &str {
        self.url.as_str()
    }

    /// Stops it from doing anything, as a network that goes silent would.
    pub(crate) fn freeze(&self) {
        self.signal("STOP");
    }

    /// Lets it go on.
    pub(crate) fn thaw(&self) {
        self.signal("CONT");
    }

    fn signal(&self, name: &str) {
        let id = self.child.id().to_string();
        let sent = Command::new("kill").args(["-s", name, &id]).status();
        assert!(
            sent.is_ok_and(|status| status.success()),
            "pgbouncer takes SIG{name}"
        );
    }

    fn try_start(
        binary: &str,
        server: &Url,
        pool: (PoolMode, u32),
        password: Option<&str>,
    ) -> Option<Self> {
        let dir = tempfile::Builder::new()
            .prefix("pgbouncer-")
            .tempdir()
            .expect("a folder for pgbouncer");
        let port = TcpListener::bind("127.0.0.1:0")
            .and_then(|listener| listener.local_addr())
            .expect("a free port")
            .port();
        let config = dir.path().join("pgbouncer.ini");
        let log = dir.path().join("log");
        let auth = password.map_or_else(
            || "any".to_owned(),
            |password| {
                let users = dir.path().join("users");
                let line = format!("\"{}\" \"{password}\"\n", server.username());
                fs::write(&users, line).expect("the users");
                format!("plain\nauth_file = {}", users.display())
            },
        );
        fs::write(&config, ini(server, pool, &auth, port, &log)).expect("the configuration");

        let mut command = Command::new(binary);
        command
            .arg("--quiet")
            .arg(&config)
            .stdin(Stdio::null())
            .stdout(Stdio::null());
        if is_root() {
            // It refuses to run as root. The folder is handed to whom it becomes.
            let given = Command::new("chown")
                .arg("-R")
                .arg("nobody")
                .arg(dir.path())
                .status();
            assert!(
                given.is_ok_and(|status| status.success()),
                "the folder goes to nobody"
            );
            command.args(["--user", "nobody"]);
        }
        let mut child = command.spawn().expect("pgbouncer can be run");

        let deadline = Instant::now() + START_DEADLINE;
        loop {
            if std::net::TcpStream::connect(("127.0.0.1", port)).is_ok() {
                break;
            }
            if child.try_wait().expect("a child has a state").is_some() {
                eprintln!("{}", fs::read_to_string(&log).unwrap_or_default());
                return None;
            }
            assert!(
                Instant::now() < deadline,
                "pgbouncer is up within {START_DEADLINE:?}"
            );
            std::thread::sleep(Duration::from_millis(20));
        }

        let mut url = server.clone();
        url.set_host(Some("127.0.0.1")).expect("a host");
        url.set_port(Some(port)).expect("a port");
        url.set_query(Some("sslmode=disable"));
        Some(Self {
            child,
            url,
            _dir: dir,
        })
    }
}

impl Drop for PgBouncer {
    fn drop(&mut self) {
        // By its id; it has no children.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn ini(
    server: &Url,
    (mode, pool_size): (PoolMode, u32),
    auth: &str,
    port: u16,
    log: &Path,
) -> String {
    let mode = match mode {
        PoolMode::Transaction => "transaction",
        PoolMode::Session => "session",
    };
    let database = server.path().trim_start_matches('/');
    let user = server.username();
    let password = server
        .password()
        .map_or_else(String::new, |password| format!(" password='{password}'"));
    format!(
        "[databases]\n\
         {database} = host={host} port={server_port} dbname={database} user={user}{password}\n\
         [pgbouncer]\n\
         listen_addr = 127.0.0.1\n\
         listen_port = {port}\n\
         unix_socket_dir =\n\
         auth_type = {auth}\n\
         pool_mode = {mode}\n\
         default_pool_size = {pool_size}\n\
         logfile = {log}\n\
         log_connections = 0\n\
         log_disconnections = 0\n",
        host = server.host_str().unwrap_or("127.0.0.1"),
        server_port = server.port().unwrap_or(5432),
        log = log.display(),
    )
}

fn is_root() -> bool {
    Command::new("id")
        .arg("-u")
        .output()
        .is_ok_and(|output| output.stdout.trim_ascii() == b"0")
}
