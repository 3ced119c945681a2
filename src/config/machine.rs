//! What settings that are left empty take from this machine. Read once and handed in, so that tests have their own.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::path::PathBuf;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::rules::is_name;

/// Memory that is assumed where the machine does not tell.
const UNKNOWN_MEMORY_BYTES: u64 = 8 << 30;
/// Open files that are counted on where there is no limit.
const UNLIMITED_OPEN_FILES: usize = 1 << 20;
/// What RocketMQ calls a broker whose host has no name.
const NAMELESS: &str = "DEFAULT_BROKER";

/// Facts about this machine and whoever started the program.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Machine {
    /// A valid broker name, whatever the machine is called.
    pub host_name: String,
    /// The address this machine reaches others from; the loopback address where there are no others.
    pub outgoing_ip: IpAddr,
    /// Home directory of whoever started the program.
    pub home: Option<PathBuf>,
    /// Where data of programs belongs: `$XDG_DATA_HOME`.
    pub data_home: Option<PathBuf>,
    pub memory_bytes: u64,
    /// Files and sockets that this process may have open.
    pub open_files: usize,
    /// The variable NAMESRV_ADDR, which Java's programs go by.
    pub name_servers: Option<String>,
}

impl Machine {
    pub fn read() -> Self {
        let absolute =
            |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
        Self {
            host_name: host_name(),
            outgoing_ip: outgoing_ip(),
            home: absolute("HOME"),
            data_home: absolute("XDG_DATA_HOME"),
            memory_bytes: memory_bytes(),
            open_files: open_files(),
            name_servers: std::env::var("NAMESRV_ADDR").ok().filter(|addresses| !addresses.trim().is_empty()),
        }
    }

    /// Where the data is kept unless the settings say otherwise.
    pub fn data_dir(&self) -> PathBuf {
        let data_home = self.data_home.clone().or_else(|| Some(self.home.as_ref()?.join(".local/share")));
        // Someone without a home has at least a working directory.
        data_home.map_or_else(|| PathBuf::from("telstar-data"), |data| data.join("telstar"))
    }
}

fn host_name() -> String {
    let system = rustix::system::uname();
    let name = system.nodename().to_string_lossy();
    if is_name(&name) { name.into_owned() } else { NAMELESS.to_owned() }
}

/// Connecting a UDP socket sends nothing; it only picks the way out. The addresses are reserved for documents.
fn outgoing_ip() -> IpAddr {
    let way_to = |from: &str, to: &str| -> Option<IpAddr> {
        let socket = UdpSocket::bind(from).ok()?;
        socket.connect(to.parse::<SocketAddr>().ok()?).ok()?;
        let ip = socket.local_addr().ok()?.ip();
        (!ip.is_unspecified()).then_some(ip)
    };
    way_to("0.0.0.0:0", "192.0.2.1:9")
        .or_else(|| way_to("[::]:0", "[2001:db8::1]:9"))
        .unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST))
}

fn memory_bytes() -> u64 {
    let read = || -> Option<u64> {
        let text = std::fs::read_to_string("/proc/meminfo").ok()?;
        let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
        line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kib| kib * 1024)
    };
    read().unwrap_or(UNKNOWN_MEMORY_BYTES)
}

/// Lets this process open as many files as the system would allow it.
pub fn raise_open_file_limit() {
    let limit = getrlimit(Resource::Nofile);
    // What is refused stays as it was.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit });
}

fn open_files() -> usize {
    getrlimit(Resource::Nofile).current.map_or(UNLIMITED_OPEN_FILES, |files| files as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_has_a_name_an_address_and_memory() {
        let machine = Machine::read();
        assert!(is_name(&machine.host_name));
        assert!(!machine.outgoing_ip.is_unspecified());
        assert!(machine.memory_bytes > 0);
        assert!(machine.open_files > 0);
    }

    #[test]
    fn limit_of_open_files_is_raised_and_never_lowered() {
        let before = open_files();
        raise_open_file_limit();
        let allowed =
            getrlimit(Resource::Nofile).maximum.map_or(UNLIMITED_OPEN_FILES, |files| files as usize);
        assert!(before <= open_files() && open_files() == allowed);
    }

    #[test]
    fn data_goes_where_programs_keep_theirs() {
        let mut machine =
            Machine { home: Some("/home/u".into()), data_home: Some("/data".into()), ..Machine::read() };
        assert_eq!(machine.data_dir(), PathBuf::from("/data/telstar"));
        machine.data_home = None;
        assert_eq!(machine.data_dir(), PathBuf::from("/home/u/.local/share/telstar"));
        machine.home = None;
        assert_eq!(machine.data_dir(), PathBuf::from("telstar-data"));
    }
}
