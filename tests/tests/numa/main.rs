//! Where memory lies on a machine of several nodes. On one of a single node the tests hold too, and say little:
//! `.ci/numa-guest` runs them in machines of two and of four.

use ringmill::PassThrough;

ringmill::make_worker!(Whereabouts: Vec<u8> => Vec<u8>, |input| servers::noted(input));
ringmill::init!(PassThrough<Vec<u8>>, Whereabouts);

mod huge;
mod placement;
mod policies;
mod segments;
mod servers;
