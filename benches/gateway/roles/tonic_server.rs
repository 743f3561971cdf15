//! What `bare` and `memory` have in common: tonic's own server, as it comes.

use clap::ArgMatches;
use federation_gateway::pb::federation_tasks_server::{FederationTasks, FederationTasksServer};
use tokio::signal::unix::{SignalKind, signal};
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;

use super::{listen, many_threads};
use crate::fault::Fault;

/// Serves until SIGTERM.
pub(crate) fn serve(matches: &ArgMatches, service: impl FederationTasks) -> Result<(), Fault> {
    super::raise_open_files()?;
    many_threads()?.block_on(async {
        let mut terminate = signal(SignalKind::terminate()).map_err(Fault::of("signals"))?;
        let incoming = TcpIncoming::from(listen(matches).await?).with_nodelay(Some(true));
        let ended = async {
            terminate.recv().await;
        };
        let router = Server::builder().add_service(FederationTasksServer::new(service));
        router.serve_with_incoming_shutdown(incoming, ended).await.map_err(Fault::of("the server"))
    })
}
