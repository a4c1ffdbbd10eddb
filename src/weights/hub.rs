//! torchvision's pretrained AlexNet in PyTorch's download cache.

use std::env;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::error::{Error, Result};

/// One published file.
struct Published {
    name: &'static str,
    /// Bytes.
    size: u64,
    /// In hexadecimal. The eight digits in the name are 32 bits of it: too few to vouch for a file.
    sha256: &'static str,
}

const IMAGENET1K_V1: Published = Published {
    name: "alexnet-owt-7be5be79.pth",
    size: 244_408_911,
    sha256: "7be5be791159472b1fbf3c69796f7cb30dca7ad8466c2df70058c37116cdee02",
};

/// The path of torchvision's `IMAGENET1K_V1` weights, `$TORCH_HOME/hub/checkpoints/alexnet-owt-7be5be79.pth`, with size
/// and SHA-256 checked.
///
/// `TORCH_HOME` defaults to `$XDG_CACHE_HOME/torch`, and that to `~/.cache/torch`, as in PyTorch. Nothing is
/// downloaded.
///
/// # Errors
///
/// [`Error::Usage`] if the file is not there, saying where it is published and where to put it; [`Error::Weights`] if
/// it is another file.
pub fn imagenet1k_v1() -> Result<PathBuf> {
    let folder = checkpoints(env::var_os("TORCH_HOME"), env::var_os("XDG_CACHE_HOME"), env::home_dir())
        .ok_or_else(|| Error::Usage("no home folder: set TORCH_HOME to the folder of PyTorch's cache".into()))?;
    verified(&folder, &IMAGENET1K_V1)
}

/// PyTorch's folder of checkpoints. As in PyTorch a leading `~` is the home folder; an empty variable counts as unset.
fn checkpoints(
    torch_home: Option<OsString>,
    xdg_cache_home: Option<OsString>,
    home: Option<PathBuf>,
) -> Option<PathBuf> {
    let expand = |value: OsString| match (Path::new(&value).strip_prefix("~"), &home) {
        (Ok(rest), Some(home)) => home.join(rest),
        _ => value.into(),
    };
    let set = |value: Option<OsString>| value.filter(|v| !v.is_empty()).map(expand);
    let torch = set(torch_home)
        .or_else(|| Some(set(xdg_cache_home)?.join("torch")))
        .or_else(|| Some(home.as_ref()?.join(".cache/torch")))?;
    Some(torch.join("hub/checkpoints"))
}

/// `folder/published.name`, if it is the published file.
fn verified(folder: &Path, published: &Published) -> Result<PathBuf> {
    let path = folder.join(published.name);
    let cannot = |e: io::Error| Error::Usage(format!("cannot read {}: {e}", path.display()));
    let metadata = match fs::metadata(&path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            return Err(Error::Usage(format!(
                "{} does not exist: PyTorch publishes it at https://download.pytorch.org/models/{}; put it there",
                path.display(),
                published.name
            )));
        }
        found => found.map_err(cannot)?,
    };
    if !metadata.is_file() {
        return Err(cannot(io::Error::other("not a regular file")));
    }
    let mismatch = |what: &str, expected: &dyn std::fmt::Display, found: &dyn std::fmt::Display| {
        let problem = format!("{what}: expected {expected}, found {found}; delete the file and download it again");
        Error::weights(&path, problem)
    };
    if metadata.len() != published.size {
        return Err(mismatch("size in bytes", &published.size, &metadata.len()));
    }
    let found = sha256(&path).map_err(cannot)?;
    if found != published.sha256 {
        return Err(mismatch("SHA-256", &published.sha256, &found));
    }
    Ok(path)
}

fn sha256(path: &Path) -> io::Result<String> {
    let mut file = File::open(path)?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer) {
            Ok(0) => break,
            Ok(n) => hasher.update(&buffer[..n]),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// SHA-256 of `abc`, from FIPS 180-2.
    const ABC: Published = Published {
        name: "abc.pth",
        size: 3,
        sha256: "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
    };

    #[test]
    fn folder_follows_pytorch() {
        let folder = |torch: &str, xdg: &str, home: Option<&str>| {
            checkpoints(Some(torch.into()), Some(xdg.into()), home.map(Into::into)).map(|p| p.display().to_string())
        };
        assert_eq!(folder("/t", "/x", Some("/h")).as_deref(), Some("/t/hub/checkpoints"));
        assert_eq!(folder("~/t", "/x", Some("/h")).as_deref(), Some("/h/t/hub/checkpoints"));
        assert_eq!(folder("", "/x", Some("/h")).as_deref(), Some("/x/torch/hub/checkpoints"));
        assert_eq!(folder("", "", Some("/h")).as_deref(), Some("/h/.cache/torch/hub/checkpoints"));
        assert_eq!(folder("", "", None), None);
        assert_eq!(checkpoints(None, None, None), None);
    }

    #[test]
    fn absent_file_says_where_to_get_it() {
        let folder = tempfile::tempdir().unwrap();
        let error = verified(folder.path(), &ABC).unwrap_err();
        assert!(matches!(error, Error::Usage(_)), "{error}");
        let message = error.to_string();
        assert!(message.contains("https://download.pytorch.org/models/abc.pth"), "{message}");
        assert!(message.contains(&folder.path().join("abc.pth").display().to_string()), "{message}");
    }

    #[test]
    fn only_the_published_bytes_pass() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("abc.pth");

        fs::write(&path, "abc").unwrap();
        assert_eq!(verified(folder.path(), &ABC).unwrap(), path);

        fs::write(&path, "abcd").unwrap();
        let error = verified(folder.path(), &ABC).unwrap_err();
        assert!(matches!(error, Error::Weights { .. }), "{error}");
        assert!(error.to_string().contains("expected 3, found 4"), "{error}");

        fs::write(&path, "abd").unwrap();
        let error = verified(folder.path(), &ABC).unwrap_err();
        assert!(matches!(error, Error::Weights { .. }), "{error}");
        let message = error.to_string();
        assert!(message.contains(ABC.sha256), "{message}");
        assert!(message.contains("a52d159f262b2c6ddb724a61840befc36eb30c88877a4030b65cbe86298449c9"), "{message}");

        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        assert!(matches!(verified(folder.path(), &ABC), Err(Error::Usage(_))));
    }
}
