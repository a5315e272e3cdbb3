//! A network namespace with two wires to the tests', each of which may be cut silently.

use std::net::Ipv4Addr;
use std::process::Command;
use std::sync::atomic::{AtomicU8, Ordering};

/// Networks of this process, each 10.99.n.0/24.
static NEXT: AtomicU8 = AtomicU8::new(1);

/// A namespace. It ends with the value.
pub(crate) struct Namespace {
    pub(crate) name: String,
    wires: Vec<Wire>,
}

/// A wire between the namespace and the tests.
#[derive(Debug, Clone)]
pub(crate) struct Wire {
    inner: String,
    outer: String,
    /// The tests' end.
    pub(crate) address: Ipv4Addr,
}

impl Namespace {
    /// Makes a namespace. It takes root.
    pub(crate) fn create() -> Self {
        let name = format!("it-{}-{}", std::process::id(), NEXT.load(Ordering::Relaxed));
        ip(&["netns", "add", &name]);
        ip(&["-n", &name, "link", "set", "lo", "up"]);
        Self {
            name,
            wires: Vec::new(),
        }
    }

    /// Another wire.
    pub(crate) fn wire(&mut self) -> Wire {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        // Not longer than the kernel takes.
        let id = format!("{:x}x{number}", std::process::id());
        let wire = Wire {
            inner: format!("i{id}"),
            outer: format!("o{id}"),
            address: Ipv4Addr::new(10, 99, number, 1),
        };
        let (inner, outer) = (wire.inner.as_str(), wire.outer.as_str());
        ip(&[
            "link", "add", outer, "type", "veth", "peer", "name", inner, "netns", &self.name,
        ]);
        ip(&["addr", "add", &format!("{}/24", wire.address), "dev", outer]);
        ip(&["link", "set", outer, "up"]);
        let address = format!("10.99.{number}.2/24");
        ip(&["-n", &self.name, "addr", "add", &address, "dev", inner]);
        ip(&["-n", &self.name, "link", "set", inner, "up"]);
        self.wires.push(wire.clone());
        wire
    }
}

impl Wire {
    /// Nothing gets through any more, and neither side is notified: the outer end swallows what comes.
    pub(crate) fn cut(&self) {
        // The inner end stays up, so that the worker is not notified either.
        ip(&["addr", "flush", "dev", &self.outer]);
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        // The wires go with it.
        let gone = Command::new("ip")
            .args(["netns", "delete", &self.name])
            .status();
        if !gone.is_ok_and(|status| status.success()) {
            eprintln!("network namespace {} is left behind", self.name);
        }
    }
}

fn ip(arguments: &[&str]) {
    let output = Command::new("ip").args(arguments).output();
    assert!(
        output.as_ref().is_ok_and(|output| output.status.success()),
        "ip {arguments:?}: {output:?} (it takes root and iproute2)"
    );
}
