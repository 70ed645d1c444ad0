//! A disk whose power can be cut, on a machine that goes on.
//!
//! An ext4 image lies on an XFS that shares blocks between copies, both mounted
//! through loop devices. What a program has made durable on the ext4 is in the
//! image; what only the page cache of the ext4 holds is not. So an atomic copy of
//! the image is what a disk holds after the power failed at that moment. It
//! doesn't model a drive that loses what it confirmed, or that reorders writes
//! within its own cache.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

const HOST_BYTES: u64 = 10 << 30;
const IMAGE_BYTES: u64 = 6 << 30;
const UNFLUSHED: &[u8] = b"written, and never flushed";

/// A mounted disk. Unmounted and removed when dropped.
pub struct PowerDisk {
    dir: TempDir,
    cuts: u32,
}

impl PowerDisk {
    /// Makes one, with nothing on it; the reason where this machine can't.
    pub fn make() -> Result<PowerDisk, String> {
        if !rustix::process::geteuid().is_root() {
            return Err("mounting needs root".to_owned());
        }
        let dir = tempfile::tempdir().map_err(|error| error.to_string())?;
        let disk = PowerDisk { dir, cuts: 0 };
        for name in ["host", "data"] {
            std::fs::create_dir(disk.path(name)).map_err(|error| error.to_string())?;
        }
        let host = disk.path("host.img");
        sparse(&host, HOST_BYTES)?;
        run("mkfs.xfs", &["-q", "-m", "reflink=1"], &[&host])?;
        run("mount", &["-o", "loop"], &[&host, &disk.path("host")])?;
        sparse(&disk.image(0), IMAGE_BYTES)?;
        run("mkfs.ext4", &["-q"], &[&disk.image(0)])?;
        disk.mount()?;
        Ok(disk)
    }

    /// Where programs see it.
    pub fn data(&self) -> PathBuf {
        self.path("data")
    }

    /// Keeps what the disk holds at this moment, for [`PowerDisk::restore`].
    ///
    /// Whoever writes to the disk has been stopped before.
    pub fn cut(&mut self) {
        // Shows, once restored, that a cut takes what was not flushed.
        std::fs::write(self.canary(), UNFLUSHED).unwrap();
        let (now, kept) = (self.image(self.cuts), self.image(self.cuts + 1));
        run("cp", &["--reflink=always"], &[&now, &kept]).unwrap();
    }

    /// Returns the disk to the moment of the cut. Whether the unflushed file,
    /// written just before the cut, is lost.
    ///
    /// Nobody has a file open on the disk.
    pub fn restore(&mut self) -> bool {
        run("umount", &[], &[&self.data()]).unwrap();
        std::fs::remove_file(self.image(self.cuts)).unwrap();
        self.cuts += 1;
        self.mount().unwrap();
        let lost = std::fs::read(self.canary()).map_or(true, |bytes| bytes != UNFLUSHED);
        if self.canary().exists() {
            std::fs::remove_file(self.canary()).unwrap();
        }
        lost
    }

    fn mount(&self) -> Result<(), String> {
        run(
            "mount",
            &["-o", "loop"],
            &[&self.image(self.cuts), &self.data()],
        )
    }

    fn image(&self, number: u32) -> PathBuf {
        self.path("host").join(format!("{number}.img"))
    }

    fn canary(&self) -> PathBuf {
        self.data().join("unflushed")
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }
}

impl Drop for PowerDisk {
    fn drop(&mut self) {
        // They may not have been mounted, where making it failed.
        let _ = run("umount", &[], &[&self.data()]);
        let _ = run("umount", &[], &[&self.path("host")]);
    }
}

fn sparse(path: &Path, bytes: u64) -> Result<(), String> {
    let file = File::create(path).map_err(|error| error.to_string())?;
    file.set_len(bytes).map_err(|error| error.to_string())
}

fn run(program: &str, options: &[&str], paths: &[&Path]) -> Result<(), String> {
    let output = Command::new(program)
        .args(options)
        .args(paths)
        .output()
        .map_err(|error| format!("{program}: {error}"))?;
    match output.status.success() {
        true => Ok(()),
        false => {
            let said = String::from_utf8_lossy(&output.stderr);
            Err(format!("{program}: {}", said.trim()))
        }
    }
}
