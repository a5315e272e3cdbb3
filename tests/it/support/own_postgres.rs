//! A Postgres of one test's own, which may be restarted and cut off without hurting any other test.

use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;
use url::Url;

const START_DEADLINE: Duration = Duration::from_secs(30);

/// A running Postgres. It ends with the value.
pub(crate) struct OwnPostgres {
    child: Option<Child>,
    binaries: PathBuf,
    addresses: Vec<Ipv4Addr>,
    port: u16,
    dir: TempDir,
}

impl OwnPostgres {
    /// Makes a data folder, and starts a server on these addresses, loopback among them.
    pub(crate) fn start(addresses: &[Ipv4Addr]) -> Self {
        let port = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0))
            .and_then(|listener| listener.local_addr())
            .expect("a free port")
            .port();
        let dir = tempfile::Builder::new()
            .prefix("postgres-")
            .tempdir()
            .expect("a folder");
        let mut server = Self {
            child: None,
            binaries: binaries(),
            addresses: addresses.to_vec(),
            port,
            dir,
        };
        let data = server.dir.path().join("data");
        if is_root() {
            let mut give = Command::new("chown");
            run(give.arg("postgres").arg(server.dir.path()), "chown");
        }
        let mut init = server.command("initdb");
        init.arg("-D").arg(&data).args([
            "-U",
            "postgres",
            "-A",
            "trust",
            "-E",
            "UTF8",
            "--locale=C.UTF-8",
            "--no-sync",
        ]);
        run(&mut init, "initdb");
        let trust = "host all all 0.0.0.0/0 trust\n";
        let access = data.join("pg_hba.conf");
        let before = std::fs::read_to_string(&access).expect("its access rules");
        std::fs::write(&access, before + trust).expect("its access rules");
        server.launch();
        server
    }

    /// Its address on loopback, and its superuser.
    pub(crate) fn url(&self) -> Url {
        let url = format!("postgres://postgres@127.0.0.1:{}/postgres", self.port);
        Url::parse(&url).expect("a URL")
    }

    /// Ends it as a crash would.
    pub(crate) fn stop_immediately(&mut self) {
        let mut child = self.child.take().expect("it runs");
        let id = child.id().to_string();
        run(Command::new("kill").args(["-QUIT", &id]), "kill");
        child.wait().expect("it was waited for");
    }

    /// Starts it, and waits until it takes connections.
    pub(crate) fn launch(&mut self) {
        let data = self.dir.path().join("data");
        let addresses: Vec<String> = self.addresses.iter().map(ToString::to_string).collect();
        let mut command = self.command("postgres");
        command
            .arg("-D")
            .arg(&data)
            .args(["-p", &self.port.to_string()])
            .args(["-c", &format!("listen_addresses={}", addresses.join(","))])
            .args([
                "-c",
                "unix_socket_directories=",
                "-c",
                "max_connections=100",
            ])
            .args(["-c", "fsync=off"]);
        self.child = Some(command.spawn().expect("postgres can be run"));
        let deadline = Instant::now() + START_DEADLINE;
        let ready = || {
            std::fs::read_to_string(data.join("postmaster.pid"))
                .is_ok_and(|lines| lines.lines().last().unwrap_or("").starts_with("ready"))
        };
        while !ready() {
            assert!(Instant::now() < deadline, "postgres is up in time");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// A program of Postgres, as the user who may run it.
    fn command(&self, program: &str) -> Command {
        let program = self.binaries.join(program);
        let mut command = if is_root() {
            let mut command = Command::new("setpriv");
            command
                .args(["--pdeathsig", "KILL", "--reuid", "postgres", "--regid"])
                .args(["postgres", "--init-groups", "--"])
                .arg(program);
            command
        } else {
            Command::new(program)
        };
        // A group of its own: what is meant for the tests is not meant for it.
        command
            .process_group(0)
            .current_dir(self.dir.path())
            .env_clear()
            .env("PATH", "/usr/bin:/bin")
            .env("LANG", "C.UTF-8")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        command
    }
}

impl Drop for OwnPostgres {
    fn drop(&mut self) {
        if self.child.is_some() {
            self.stop_immediately();
        }
    }
}

fn binaries() -> PathBuf {
    let mut versions: Vec<PathBuf> = std::fs::read_dir("/usr/lib/postgresql")
        .expect("postgresql is installed: apt-get install -y --no-install-recommends postgresql")
        .filter_map(|entry| Some(entry.ok()?.path().join("bin")))
        .filter(|bin| bin.join("postgres").exists())
        .collect();
    versions.sort();
    versions.pop().expect("a Postgres server is installed")
}

fn run(command: &mut Command, what: &str) {
    let output = command.output();
    assert!(
        output.as_ref().is_ok_and(|output| output.status.success()),
        "{what}: {output:?}"
    );
}

fn is_root() -> bool {
    Command::new("id")
        .arg("-u")
        .output()
        .is_ok_and(|output| output.stdout.trim_ascii() == b"0")
}
