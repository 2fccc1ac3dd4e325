//! A guest and its queue pairs.

use std::time::Duration;

use synthetic_guest::{
    Backing, Features, Guest, GuestConfig, Indirect, QueuePair, Ram, RamConfig, Role, RxShape, TxQueue, TxShape,
};

use crate::error::Error;
use crate::options::{Hugepages, Options, Size, Socket, Switch};
use crate::plan::Plan;
use crate::sender::{Filled, round_len};

/// A guest. Its queue pairs are outside of the library's guest, to be borrowed one by one.
pub(crate) struct Node {
    /// The connection to the switch; `None` without one.
    pub(crate) guest: Option<Guest>,
    /// Memory, where there is no connection that owns it.
    pub(crate) ram: Option<Ram>,
    pub(crate) pairs: Vec<QueuePair>,
    /// What is in their transmit buffers.
    pub(crate) filled: Vec<Filled>,
    pub(crate) features: Features,
    socket: Option<Socket>,
}

impl Node {
    /// Connects all guests, each in a thread of its own: a switch may look for its sockets in any order.
    pub(crate) fn connect_all(options: &Options, plan: &Plan) -> Result<Vec<Node>, Error> {
        let sockets = options.sockets();
        std::thread::scope(|scope| {
            let start = |(number, socket): (usize, &Socket)| {
                let socket = socket.clone();
                scope.spawn(move || Node::connect(options, plan, number, socket))
            };
            let threads: Vec<_> = sockets.iter().enumerate().map(start).collect();
            threads.into_iter().map(|t| t.join().expect("a thread that starts a guest does not panic")).collect()
        })
    }

    fn connect(options: &Options, plan: &Plan, number: usize, socket: Socket) -> Result<Node, Error> {
        let mut config = config(options, plan, number);
        config.session.socket = socket.path.clone();
        config.session.role = if socket.server { Role::Server } else { Role::Client };
        let failed = |source| Error::Guest { guest: number, socket: socket.path.clone(), source };
        let mut guest = Guest::start(config).map_err(failed)?;
        let pairs = guest.take_pairs();
        let features = guest.negotiated().features;
        Ok(Node { guest: Some(guest), ram: None, pairs, filled: Vec::new(), features, socket: Some(socket) }
            .ready(options))
    }

    /// A guest without a switch.
    pub(crate) fn standalone(options: &Options, plan: &Plan, number: usize) -> Result<Node, Error> {
        let config = config(options, plan, number);
        let ram = Ram::new(&config.ram).map_err(Error::Memory)?;
        let features = options.features().0.without(Features::MRG_RXBUF);
        let pairs = QueuePair::standalone(&ram, &config, features).map_err(Error::Memory)?;
        Ok(Node { guest: None, ram: Some(ram), pairs, filled: Vec::new(), features, socket: None }.ready(options))
    }

    fn ready(mut self, options: &Options) -> Node {
        for pair in &mut self.pairs {
            pair.rx.set_refill_at(options.refill_at());
        }
        self.filled = self.pairs.iter().map(|pair| Filled::new(pair.tx.buffers())).collect();
        self
    }

    /// A transmit queue and what its buffers hold.
    #[inline]
    pub(crate) fn tx(&mut self, pair: usize) -> (&mut TxQueue, &mut Filled) {
        (&mut self.pairs[pair].tx, &mut self.filled[pair])
    }

    pub(crate) fn hugepages(&self) -> bool {
        self.ram.as_ref().or(self.guest.as_ref().map(Guest::ram)).is_some_and(Ram::hugepages)
    }

    /// Whether the switch has closed the connection.
    pub(crate) fn is_lost(&self) -> bool {
        self.guest.as_ref().is_some_and(|g| g.session().channel().wait_closed(Duration::from_micros(100)))
    }

    /// Stops the rings and closes the connection.
    pub(crate) fn stop(mut self, number: usize) -> Result<(), Error> {
        let Some(mut guest) = self.guest.take() else { return Ok(()) };
        guest.put_pairs(self.pairs);
        let socket = self.socket.map(|s| s.path).unwrap_or_default();
        guest.stop().map(|_| ()).map_err(|source| Error::Guest { guest: number, socket, source })
    }
}

fn config(options: &Options, plan: &Plan, number: usize) -> GuestConfig {
    let mut config = GuestConfig::new("");
    let (features, required) = options.features();
    (config.session.features, config.session.required) = (features, required);
    config.session.connect_timeout = Duration::from_secs_f64(options.connect_timeout_s);
    config.queue_pairs = options.queue_pairs;
    (config.rx_ring, config.tx_ring) = (options.ring_size, options.ring_size);
    (config.tx_shape, config.rx_shape) = (TxShape::OneBuffer, RxShape::OneBuffer);
    config.indirect = if options.indirect == Switch::On { Indirect::Always } else { Indirect::Never };
    config.tx_frame_len = if options.size == Size::Tso { options.longest_frame() } else { 1536 };
    config.rx_buffer_len = options.rx_buffer_len();
    config.rx_buffers = options.buffers;
    let buffers = options.tx_buffers();
    // Whole rounds of frames, so that every buffer keeps the frame it was filled with.
    let flows = plan.flows.iter().filter(|f| f.from == number && f.pair == 0).count();
    let round = round_len(flows, &options.size.frame_lens()).max(1);
    config.tx_buffers = Some(if round <= buffers { buffers - buffers % round } else { buffers });
    config.ram = RamConfig {
        region_size: config.memory_needed(),
        backing: match options.hugepages {
            Hugepages::Auto => Backing::Auto,
            Hugepages::On => Backing::Hugepages,
            Hugepages::Off => Backing::Pages,
        },
        ..RamConfig::default()
    };
    config
}
