//! The file that says what a data directory is, in words that people can read.

use std::io;
use std::ops::RangeInclusive;
use std::path::Path;

use super::dir::Dir;

/// Name of the file.
pub(super) const FILE: &str = "FORMAT";
const NEW_FILE: &str = "FORMAT.new";

/// Sizes of a journal file that a directory may have been made with: bytes.
const JOURNAL_FILE_BYTES: RangeInclusive<u32> = 16 << 10..=1 << 30;

/// The format version that this code writes and reads.
pub const FORMAT_VERSION: u32 = 1;

/// What a data directory says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// Chosen when the directory was made: 32 hexadecimal digits.
    pub cluster_id: String,
    /// Size of its journal files in bytes.
    pub journal_file_bytes: u32,
}

/// Why a directory can't be used.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// Reading or writing failed.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// A newer broker wrote it.
    #[error(
        "the data directory has format {found}, this broker reads up to {FORMAT_VERSION}: use a newer broker"
    )]
    Newer {
        /// What it says.
        found: u32,
    },
    /// Not what we write.
    #[error(
        "the file FORMAT of the data directory is damaged, or this is not a data directory of statecast"
    )]
    Unreadable,
}

impl Identity {
    /// Makes a directory that has none one of ours. Its id is made from `seed`.
    pub fn create(dir: &dyn Dir, journal_file_bytes: u32, seed: u128) -> io::Result<Identity> {
        let identity = Identity {
            cluster_id: format!("{seed:032x}"),
            journal_file_bytes,
        };
        identity.store(dir)?;
        Ok(identity)
    }

    /// Reads the identity; `None` when the directory has none.
    pub fn load(dir: &dyn Dir) -> Result<Option<Identity>, IdentityError> {
        let file = match dir.open(Path::new(FILE)) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let mut bytes = [0; 1024];
        let len = file.read_at(&mut bytes, 0)?;
        let text = std::str::from_utf8(&bytes[..len]).map_err(|_| IdentityError::Unreadable)?;
        Identity::parse(text).map(Some)
    }

    fn store(&self, dir: &dyn Dir) -> io::Result<()> {
        match dir.remove(Path::new(NEW_FILE)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let file = dir.create(Path::new(NEW_FILE))?;
        file.write_all_at(self.render().as_bytes(), 0)?;
        file.sync_data()?;
        dir.rename(Path::new(NEW_FILE), Path::new(FILE))?;
        dir.sync_dir(Path::new(""))
    }

    pub(super) fn render(&self) -> String {
        format!(
            "statecast data directory\nformat {FORMAT_VERSION}\ncluster_id {}\njournal_file_bytes {}\n",
            self.cluster_id, self.journal_file_bytes
        )
    }

    pub(super) fn parse(text: &str) -> Result<Identity, IdentityError> {
        let mut lines = text.lines();
        if lines.next() != Some("statecast data directory") {
            return Err(IdentityError::Unreadable);
        }
        let mut value = |key: &str| {
            lines
                .next()
                .and_then(|line| line.strip_prefix(key)?.strip_prefix(' '))
                .ok_or(IdentityError::Unreadable)
        };
        let found = value("format")?
            .parse()
            .ok()
            .filter(|found| *found > 0)
            .ok_or(IdentityError::Unreadable)?;
        if found > FORMAT_VERSION {
            return Err(IdentityError::Newer { found });
        }
        let cluster_id = value("cluster_id")?.to_owned();
        let journal_file_bytes = value("journal_file_bytes")?
            .parse()
            .ok()
            .filter(|bytes| JOURNAL_FILE_BYTES.contains(bytes))
            .ok_or(IdentityError::Unreadable)?;
        Ok(Identity {
            cluster_id,
            journal_file_bytes,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identity_survives_rendering() {
        let identity = Identity {
            cluster_id: "00ff".to_owned(),
            journal_file_bytes: 1 << 26,
        };
        assert_eq!(
            Identity::parse(&identity.render()).expect("valid"),
            identity
        );
    }

    #[test]
    fn newer_format_is_refused_by_name() {
        let text = "statecast data directory\nformat 2\nsomething else\n";
        assert!(matches!(
            Identity::parse(text),
            Err(IdentityError::Newer { found: 2 })
        ));
    }

    #[test]
    fn other_text_is_refused() {
        assert!(matches!(
            Identity::parse("hello\n"),
            Err(IdentityError::Unreadable)
        ));
        assert!(matches!(
            Identity::parse("statecast data directory\nformat x\n"),
            Err(IdentityError::Unreadable)
        ));
        let none =
            "statecast data directory\nformat 0\ncluster_id 00\njournal_file_bytes 67108864\n";
        assert!(matches!(
            Identity::parse(none),
            Err(IdentityError::Unreadable)
        ));
        let tiny = "statecast data directory\nformat 1\ncluster_id 00\njournal_file_bytes 100\n";
        assert!(matches!(
            Identity::parse(tiny),
            Err(IdentityError::Unreadable)
        ));
    }
}
