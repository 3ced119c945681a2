//! `telstar start`: the settings of a broker, a name server, or both.

use std::net::IpAddr;
use std::path::PathBuf;

use clap::Args;

use crate::config::{Config, FlagGiven, Sources};
use crate::fatal::Fatal;

/// Start a broker, a name server, or both
#[derive(Clone, Debug, Default, Args)]
#[command(after_help = "\
Every setting has a default; config/telstar.toml documents them all. Later ones win: --java-config, --config,
variables such as TELSTAR_BROKER__NAME, --set, and the flags above.

Examples:
  telstar start
  telstar start --data-dir /var/lib/telstar --advertise 203.0.113.7
  telstar start --roles namesrv --name-server-listen 0.0.0.0:9876
  telstar start --roles broker --name-server 'ns-a:9876;ns-b:9876' --broker-name broker-b
  telstar start --java-config broker.conf
  telstar start --config telstar.toml --set retention.hours=24 --print-config")]
pub struct StartArgs {
    /// What to be: namesrv, broker, or both [default: namesrv,broker]
    #[arg(long, value_name = "ROLES")]
    pub roles: Option<String>,
    /// Read settings from a TOML file
    #[arg(short, long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Read the settings of a Java broker, its broker.conf
    #[arg(long, value_name = "FILE")]
    pub java_config: Option<PathBuf>,
    /// Set one setting; may be repeated
    #[arg(long = "set", value_name = "SECTION.KEY=VALUE")]
    pub assignments: Vec<String>,
    /// Where everything is kept [default: ~/.local/share/telstar]
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// Where the broker listens [default: 0.0.0.0:10911]
    #[arg(long, value_name = "ADDR")]
    pub listen: Option<String>,
    /// Where the name server listens [default: 0.0.0.0:9876]
    #[arg(long, value_name = "ADDR")]
    pub name_server_listen: Option<String>,
    /// The IP address that clients are told [default: the one this machine reaches others from]
    #[arg(long, value_name = "IP")]
    pub advertise: Option<IpAddr>,
    /// Name servers to register with, separated by semicolons [default: the one of this process]
    #[arg(short = 'n', long, visible_alias = "name-servers", value_name = "ADDRS")]
    pub name_server: Option<String>,
    /// Name of the broker [default: the name of this machine]
    #[arg(long, value_name = "NAME")]
    pub broker_name: Option<String>,
    /// Cluster of the broker [default: DefaultCluster]
    #[arg(long, value_name = "NAME")]
    pub cluster: Option<String>,
    /// Print the settings in effect as TOML, and end
    #[arg(long)]
    pub print_config: bool,
}

/// The settings that the arguments, the files they name and the environment come to.
pub fn settings(args: &StartArgs) -> Result<Config, Fatal> {
    // Variables that are no text cannot be ours.
    let environment = std::env::vars_os();
    let environment =
        environment.filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
    Ok(Config::load(&args.sources(environment.collect())?)?)
}

impl StartArgs {
    fn sources(&self, environment: Vec<(String, String)>) -> Result<Sources, Fatal> {
        let data_dir = match &self.data_dir {
            None => None,
            Some(dir) => Some(dir.to_str().ok_or_else(|| Fatal::Usage {
                problem: format!("--data-dir {} is not written in UTF-8", dir.display()),
            })?),
        };
        let flags = [
            ("--roles", "roles", self.roles.as_deref()),
            ("--data-dir", "store.data_dir", data_dir),
            ("--listen", "broker.listen", self.listen.as_deref()),
            ("--name-server-listen", "name_server.listen", self.name_server_listen.as_deref()),
            ("--advertise", "broker.advertise_ip", self.advertise.map(|ip| ip.to_string()).as_deref()),
            ("--name-server", "broker.name_servers", self.name_server.as_deref()),
            ("--broker-name", "broker.name", self.broker_name.as_deref()),
            ("--cluster", "broker.cluster", self.cluster.as_deref()),
        ]
        .into_iter()
        .filter_map(|(flag, key, value)| Some(FlagGiven { flag, key, value: value?.to_owned() }))
        .collect();
        Ok(Sources {
            java_config: self.java_config.clone(),
            config: self.config.clone(),
            environment,
            assignments: self.assignments.clone(),
            flags,
        })
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::config::Role;

    #[derive(Parser)]
    struct Program {
        #[command(flatten)]
        start: StartArgs,
    }

    fn loaded(arguments: &[&str]) -> Result<Config, Fatal> {
        let words = std::iter::once("telstar").chain(arguments.iter().copied());
        let args = Program::try_parse_from(words).unwrap_or_else(|error| panic!("{error}")).start;
        Ok(Config::load(&args.sources(Vec::new())?)?)
    }

    #[test]
    fn flags_become_settings() {
        let config = loaded(&[
            "--roles=broker",
            "--data-dir=/d",
            "--listen=127.0.0.1:1911",
            "--advertise=10.0.0.9",
            "-n",
            "a:1;b:2",
            "--broker-name=x",
            "--cluster=c",
            "--set",
            "retention.hours=24",
            "--set=broker.cluster=other",
        ])
        .unwrap();
        assert_eq!(config.roles, [Role::Broker]);
        assert_eq!(config.store.data_dir, PathBuf::from("/d"));
        assert_eq!(config.broker.advertised(config.broker.listen), "10.0.0.9:1911".parse().unwrap());
        assert_eq!(config.broker.name_servers, ["a:1", "b:2"]);
        assert_eq!((config.broker.name.as_str(), config.broker.cluster.as_str()), ("x", "c"));
        assert_eq!(config.retention.max_age.as_secs(), 24 * 3600);
    }

    #[test]
    fn a_bad_flag_is_refused_by_its_name() {
        let fatal = loaded(&["--listen=10911"]).unwrap_err();
        assert_eq!(fatal.exit_status(), 3);
        assert_eq!(
            fatal.to_string(),
            "broker.listen cannot be \"10911\" (--listen): allowed is an IP address and a port, as 0.0.0.0:10911 or [::]:10911"
        );
        let fatal = loaded(&["--config=/no/such/file"]).unwrap_err();
        assert!(fatal.to_string().starts_with("cannot read /no/such/file: "), "{fatal}");
    }
}
