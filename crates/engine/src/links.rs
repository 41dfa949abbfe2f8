//! The byte layers that modules make for cluster connections, as the network wants them. Translates, decides nothing.

use tandem_module::node::NodeRef;
use tandem_module::transport::{ConnId, LinkFilter, LinkRequest};
use tandem_net::{ByteFilter, Direction, FilterError, FilterFactory, FilterRequest, Proto};

use crate::transport::{module_proto, module_socket};

/// Asks the link layer of a node for each connection.
pub(crate) struct LinkFilters {
    node: NodeRef,
}

impl LinkFilters {
    pub(crate) fn new(node: NodeRef) -> LinkFilters {
        LinkFilters { node }
    }
}

impl FilterFactory for LinkFilters {
    fn supports(&self, proto: Proto) -> bool {
        // Asked before modules begin: whether one will make the layer.
        let has = |module| self.node.has_module(module);
        proto == Proto::Bins && has("proto_bins") && has("tls_mgm") && has("clusterer")
    }

    fn filter(&self, request: &FilterRequest) -> Result<Option<Box<dyn ByteFilter>>, FilterError> {
        let Some(layer) = self.node.link_layer() else {
            if request.proto.is_encrypted() {
                return Err(FilterError(format!("nothing encrypts {} connections", request.proto)));
            }
            return Ok(None);
        };
        let request = LinkRequest {
            conn: ConnId(request.conn.as_u64()),
            proto: module_proto(request.proto),
            socket: module_socket(request.socket),
            is_opened: request.direction == Direction::Opened,
            remote: request.remote,
        };
        let filter = layer.filter(&request).map_err(FilterError)?;
        Ok(filter.map(|filter| Box::new(Filter(filter)) as Box<dyn ByteFilter>))
    }
}

struct Filter(Box<dyn LinkFilter>);

impl ByteFilter for Filter {
    fn received(&mut self, input: &[u8], plain: &mut Vec<u8>, wire: &mut Vec<u8>) -> Result<(), FilterError> {
        self.0.received(input, plain, wire).map_err(FilterError)
    }

    fn send(&mut self, plain: &[u8], wire: &mut Vec<u8>) -> Result<(), FilterError> {
        self.0.send(plain, wire).map_err(FilterError)
    }

    fn connected(&mut self, wire: &mut Vec<u8>) -> Result<(), FilterError> {
        self.0.connected(wire).map_err(FilterError)
    }

    fn closing(&mut self, wire: &mut Vec<u8>) {
        self.0.closing(wire);
    }

    fn is_settled(&self) -> bool {
        self.0.is_settled()
    }
}
