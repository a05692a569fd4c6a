//! Tells a shortage of the machine - memory, threads, descriptors, disk - from a fault of a phase.

use std::error::Error;
use std::io;

use rustix::io::Errno;

/// What the system answers when it has no more of something.
const SHORTAGES: [Errno; 6] =
    [Errno::NOMEM, Errno::AGAIN, Errno::MFILE, Errno::NFILE, Errno::NOSPC, Errno::DQUOT];

/// Whether an error of the chain is a shortage of the machine.
pub fn is_shortage<'e>(chain: impl IntoIterator<Item = &'e (dyn Error + 'static)>) -> bool {
    chain.into_iter().any(|error| {
        let from_io = error.downcast_ref::<io::Error>().and_then(io::Error::raw_os_error);
        let code = from_io.or_else(|| error.downcast_ref::<Errno>().map(|errno| errno.raw_os_error()));
        code.is_some_and(|code| SHORTAGES.iter().any(|errno| errno.raw_os_error() == code))
    })
}

/// Whether the text of an error names a shortage: the dynamic loader has no error codes.
#[cfg(feature = "dylib")]
pub(super) fn names_shortage(text: &str) -> bool {
    SHORTAGES.iter().any(|errno| {
        let told = io::Error::from_raw_os_error(errno.raw_os_error()).to_string();
        // Without the " (os error 12)" that the standard library adds.
        told.split(" (os error").next().is_some_and(|told| text.contains(told))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shortage_is_known_by_its_code() {
        let no_memory = io::Error::from_raw_os_error(12);
        let no_descriptor = io::Error::from_raw_os_error(24);
        let not_found = io::Error::from_raw_os_error(2);
        assert!(is_shortage([&no_memory as &(dyn Error + 'static)]));
        assert!(is_shortage([&not_found as &(dyn Error + 'static), &no_descriptor]));
        assert!(is_shortage([&Errno::NOMEM as &(dyn Error + 'static)]));
        assert!(!is_shortage([&not_found as &(dyn Error + 'static), &Errno::ACCESS]));
    }

    #[cfg(feature = "dylib")]
    #[test]
    fn a_shortage_is_known_by_the_words_of_the_dynamic_loader() {
        assert!(names_shortage("phase.so: failed to map segment from shared object: Cannot allocate memory"));
        assert!(names_shortage("phase.so: cannot open shared object file: Too many open files"));
        assert!(!names_shortage("phase.so: cannot open shared object file: No such file or directory"));
    }
}
