//! This bench's own program under callgrind, and what callgrind wrote of it.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

/// The function that is counted: all that runs while it is on the stack.
const COUNTED: &str = "*counted_round*";

/// glibc chooses its copy functions by what the CPU can do. Without these they are the same for every x86_64.
const TUNABLES: &str = "glibc.cpu.hwcaps=-AVX512F,-AVX512VL,-AVX2,-AVX_Fast_Unaligned_Load,-ERMS,-FSRM,-SSSE3";

/// Functions of allocators, Rust's, the C library's and DPDK's.
const ALLOCATORS: [&str; 7] =
    ["malloc", "calloc", "realloc", "free", "posix_memalign", "rte_malloc_socket", "rte_free"];

/// What one run counted.
pub(crate) struct Profile {
    pub(crate) instructions: u64,
    /// A function of an allocator that was called in a round.
    pub(crate) allocator: Option<String>,
}

/// What `valgrind --version` says.
pub(crate) fn version() -> Result<String> {
    let output = Command::new("valgrind").arg("--version").output();
    let output = output.context("cannot run valgrind: install it (scripts/install-deps.sh bench-instr)")?;
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// Where the profiles go. They stay, for `callgrind_annotate`.
pub(crate) fn folder() -> Result<PathBuf> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../target/bench");
    std::fs::create_dir_all(path.join("callgrind")).with_context(|| format!("cannot create {}", path.display()))?;
    path.canonicalize().with_context(|| format!("no {}", path.display()))
}

/// Counts one case.
pub(crate) fn run(name: &str, what: &str) -> Result<Profile> {
    let file = folder()?.join("callgrind").join(format!("{name}.{what}"));
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--quiet", "--collect-atstart=no", &format!("--toggle-collect={COUNTED}")])
        .arg(format!("--callgrind-out-file={}", file.display()))
        .arg(std::env::current_exe().context("cannot find the bench's own program")?)
        .args(["run", name, what])
        .env("GLIBC_TUNABLES", TUNABLES)
        .stdin(Stdio::null())
        .output()
        .context("cannot run valgrind")?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("{name} ({what}) failed under valgrind, {}:\n{said}", output.status);
    }
    let text = std::fs::read_to_string(&file).with_context(|| format!("callgrind wrote no {}", file.display()))?;
    read(&text).with_context(|| format!("in {}", file.display()))
}

/// Reads a profile (Valgrind manual, "Callgrind Format Specification").
fn read(text: &str) -> Result<Profile> {
    let total = text.lines().find_map(|line| line.strip_prefix("totals: ").or_else(|| line.strip_prefix("summary: ")));
    let instructions = total.and_then(|total| total.trim().parse().ok()).context("no total")?;
    if instructions == 0 {
        bail!("nothing was counted: callgrind did not see {COUNTED}");
    }
    // "fn=(12) name" where a name is used first, "fn=(12)" after; "cfn=" likewise for functions that are called.
    let mut functions = text.lines().filter_map(|line| {
        let (_, name) = line.strip_prefix("fn=").or_else(|| line.strip_prefix("cfn="))?.split_once(' ')?;
        // Recursion is numbered: "name'2".
        Some(name.split('\'').next().unwrap_or(name))
    });
    let allocator = functions.find(|name| ALLOCATORS.contains(name)).map(str::to_owned);
    Ok(Profile { instructions, allocator })
}
