//! Which CPU the client runs on, and which its partner.

use ringmill::cpu;

use crate::Error;

/// Two different CPUs out of those that this process may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CpuPair {
    /// Where the measuring thread runs.
    pub client: usize,
    /// Where the partner runs, be it a thread or a worker process.
    pub partner: usize,
}

impl CpuPair {
    /// Takes the first two of the CPUs that this process may use; `taskset` chooses others.
    ///
    /// Call it before [`pin_to`], which narrows that set for the calling thread.
    ///
    /// # Errors
    ///
    /// [`Error::TooFewCpus`] if there is only one.
    pub fn allowed() -> Result<Self, Error> {
        Self::first_of(cpu::allowed())
    }

    fn first_of(allowed: &[usize]) -> Result<Self, Error> {
        match *allowed {
            [client, partner, ..] => Ok(Self { client, partner }),
            _ => Err(Error::TooFewCpus { allowed: allowed.to_vec() }),
        }
    }
}

/// Keeps the calling thread on `cpu` from now on.
///
/// Threads and processes that it starts later inherit this, so start the partners first.
///
/// # Errors
///
/// [`Error::Pin`] if the system refuses.
pub fn pin_to(cpu: usize) -> Result<(), Error> {
    cpu::pin_thread(&[cpu]).map_err(|source| Error::Pin { cpu, source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_the_first_two() {
        assert_eq!(CpuPair::first_of(&[3, 5, 9]).unwrap(), CpuPair { client: 3, partner: 5 });
    }

    #[test]
    fn one_cpu_is_too_few() {
        let error = CpuPair::first_of(&[7]).unwrap_err();
        assert!(matches!(&error, Error::TooFewCpus { allowed } if allowed == &[7]));
        assert!(error.to_string().starts_with("two CPUs are needed"), "{error}");
    }
}
