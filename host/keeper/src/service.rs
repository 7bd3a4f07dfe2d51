//! Holding a helper program.

use hutch_container::ServiceSpec;

use crate::clients::Clients;
use crate::fault::Result;
use crate::reactor::{Reactor, Ready};

/// A service.
pub(crate) struct Service {
    spec: ServiceSpec,
}

impl Service {
    pub(crate) fn make(spec: ServiceSpec, _reactor: &Reactor) -> Result<Self> {
        Ok(Self { spec })
    }
    pub(crate) fn id(&self) -> &str {
        &self.spec.id
    }
    pub(crate) fn event(&mut self, _reactor: &Reactor, _clients: &mut Clients, _event: Ready) -> bool {
        false
    }
}
