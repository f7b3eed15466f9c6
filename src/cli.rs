//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use cluster::DeploymentRef;

const AFTER_HELP: &str = "\
Exit codes: 0 done, 1 failed, 2 the command line or the configuration is wrong.

Examples:
  kubevision-audit serve --config config.yaml
  KUBEVISION_AUDIT_DATABASE__URL=postgres://audit@db/audit kubevision-audit migrate
  kubevision-audit purge --dry-run";

/// Records every write to a Kubernetes cluster: who changed what, from where, to what effect, with the diff.
#[derive(Debug, Parser)]
#[command(name = "kubevision-audit", version, about, after_help = AFTER_HELP, arg_required_else_help = true)]
pub struct Cli {
    #[command(flatten)]
    pub global: Global,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Args)]
pub struct Global {
    /// The configuration file [default: config.yaml, where it is there]
    #[arg(long, global = true, value_name = "FILE")]
    pub config: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Runs the webhook, the batch writer, the nightly purge and the panel
    #[command(after_help = "\
Examples:
  kubevision-audit serve
  kubevision-audit serve --kubeconfig ~/.kube/config --config config.yaml")]
    Serve {
        /// How to reach the cluster [default: in a cluster its ServiceAccount, else KUBECONFIG or ~/.kube/config]
        #[arg(long, value_name = "FILE")]
        kubeconfig: Option<PathBuf>,
    },
    /// Brings the database's schema up to date; doing it twice does nothing
    #[command(after_help = "Example:\n  kubevision-audit migrate --config config.yaml")]
    Migrate,
    /// Prints the CustomResourceDefinition of AuditPolicy, to be applied to a cluster
    #[command(after_help = "Example:\n  kubevision-audit crd | kubectl apply -f -")]
    Crd,
    /// Removes entries that have outlived audit.retention_days, and records that
    #[command(after_help = "\
Examples:
  kubevision-audit purge --dry-run    # tells how many would go
  kubevision-audit purge")]
    Purge {
        /// Only tell what would be removed
        #[arg(long)]
        dry_run: bool,
    },
    /// Takes in audit events from files that an API server logged or a cloud exported; doing it twice adds nothing
    #[command(after_help = "\
Accepted are audit.k8s.io/v1 Events, one a line, EventLists, and what CloudWatch (EKS), Cloud Logging (GKE) and Azure Monitor
(AKS) export of those; gzip is unpacked. All writes are recorded, whatever the AuditPolicies say, which are not
asked: so of a refusal the reason is told, and no message that a policy might hide.

Examples:
  kubevision-audit import /var/log/kubernetes/audit.log
  kubevision-audit import --cluster prod-eu audit-*.log.gz
  zcat audit.json.gz | kubevision-audit import -")]
    Import {
        /// Files to read, `-` for standard input
        #[arg(required = true, value_name = "FILE")]
        files: Vec<PathBuf>,
        /// The cluster that they are of [default: `cluster` of the configuration]
        #[arg(long, value_name = "NAME")]
        cluster: Option<String>,
    },
    /// Replaces the CA that the program made for its webhook, as after its key has leaked
    #[command(after_help = "\
Running replicas carry it through, and no call is refused meanwhile: they register the new CA beside the old one, serve with a
certificate of the new one once every API server knows it, and drop the old one in the end.

Example:
  kubevision-audit rotate-ca --config config.yaml")]
    RotateCa {
        /// How to reach the cluster [default: in a cluster its ServiceAccount, else KUBECONFIG or ~/.kube/config]
        #[arg(long, value_name = "FILE")]
        kubeconfig: Option<PathBuf>,
    },
    /// Asks a running program whether it can do its work, and prints what it says; exit code 1 where it cannot
    #[command(after_help = "\
Examples:
  kubevision-audit status
  kubevision-audit status --address kubevision-audit.kubevision-audit.svc:9090
  kubectl exec -n kubevision-audit deploy/kubevision-audit -- /kubevision-audit status")]
    Status {
        /// Where its /readyz is [default: the port of listen.metrics, on this machine]
        #[arg(long, value_name = "HOST:PORT")]
        address: Option<String>,
    },
    /// Removes the webhook's registration from the cluster, as before an uninstall
    #[command(after_help = "\
A program that runs puts its registration back, so it has to be stopped first: --deployment scales it to 0 replicas, and the
registration is removed until it stays away, for at most a minute. Nothing else is removed: the database stays, and so does
the key.

Examples:
  kubevision-audit unregister --deployment kubevision-audit/kubevision-audit
  kubevision-audit unregister    # where no program runs")]
    Unregister {
        /// The Deployment to stop before, as NAMESPACE/NAME
        #[arg(long, value_name = "NAMESPACE/NAME")]
        deployment: Option<DeploymentRef>,
        /// How to reach the cluster [default: in a cluster its ServiceAccount, else KUBECONFIG or ~/.kube/config]
        #[arg(long, value_name = "FILE")]
        kubeconfig: Option<PathBuf>,
    },
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_consistent_and_every_command_shows_an_example() {
        let mut whole = Cli::command();
        whole.clone().debug_assert();
        for command in whole.get_subcommands_mut() {
            let help = command.render_long_help().to_string();
            assert!(help.contains("Example"), "{help}");
        }
    }
}
