//! Generates the raw bindings from the libdpdk that is installed, and links it.
//!
//! `pkg-config` is called directly: DPDK's headers only compile with `-include rte_config.h` and the `-march` the
//! library was built for, and the `pkg-config` crate passes on neither.

use std::env;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::{Command, exit};

/// The oldest release whose API this crate is written against.
const MINIMUM: &str = "22.11";

/// What a Debian or Ubuntu user has to install.
const PACKAGES: &str = "libdpdk-dev libclang-dev clang pkg-config";

/// What `src/shim.h` and the library offer to Rust; everything else stays out of the bindings.
const FUNCTIONS: &[&str] = &[
    "pmd_.*",
    "rte_dev_(name|probe)",
    "rte_eal_(init|cleanup|hotplug_remove|get_runtime_dir)",
    "rte_eth_(allmulticast|promiscuous)_(enable|disable)",
    "rte_eth_dev_(close|configure|get_mtu|get_name_by_port|get_port_by_name)",
    "rte_eth_dev_(info_get|set_mtu|socket_id|start|stop)",
    "rte_eth_find_next_owned_by",
    "rte_eth_(rx|tx)_queue_setup",
    "rte_eth_stats_(get|reset)",
    "rte_eth_tx_done_cleanup",
    "rte_eth_xstats_(get|get_names)",
    "rte_get_tsc_hz",
    "rte_log_cur_msg_loglevel",
    "rte_mempool_(avail_count|free)",
    "rte_pktmbuf_(alloc|alloc_bulk|free|free_bulk|pool_create)",
    "rte_strerror",
    "rte_thread_(register|unregister)",
    "rte_version",
];

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    for variable in ["LIBCLANG_PATH", "PKG_CONFIG_LIBDIR", "PKG_CONFIG_PATH"] {
        println!("cargo:rerun-if-env-changed={variable}");
    }

    check_version();
    let cflags = pkg_config(&["--cflags", "libdpdk"]);
    // 22.11 marks parts of what is used here experimental; fopencookie is a GNU extension.
    let extra = ["-DALLOW_EXPERIMENTAL_API", "-D_GNU_SOURCE"].map(String::from);
    let cflags: Vec<String> = cflags.into_iter().chain(extra).collect();

    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    let inlines = out.join("inlines.c");
    generate(&cflags, &out.join("dpdk.rs"), &inlines);
    compile(&cflags, &inlines);
    link();
}

/// Ends the build with a message for the person in front of it, without a panic's noise around it.
fn fail(problem: &str) -> ! {
    println!("cargo::error={problem}");
    println!("cargo::error=pmd-bindings needs DPDK {MINIMUM} or newer: apt-get install {PACKAGES}");
    exit(1);
}

fn pkg_config(arguments: &[&str]) -> Vec<String> {
    let output = Command::new("pkg-config")
        .args(arguments)
        .output()
        .unwrap_or_else(|error| fail(&format!("cannot run pkg-config: {error}")));
    if !output.status.success() {
        let message = String::from_utf8_lossy(&output.stderr).trim().replace('\n', " ");
        fail(&format!("pkg-config does not find libdpdk: {message}"));
    }
    let text =
        String::from_utf8(output.stdout).unwrap_or_else(|_| fail("pkg-config printed something that is not UTF-8"));
    text.split_whitespace().map(str::to_owned).collect()
}

fn check_version() {
    let found = pkg_config(&["--modversion", "libdpdk"]).join(" ");
    let recent = Command::new("pkg-config")
        .args([&format!("--atleast-version={MINIMUM}"), "libdpdk"])
        .status()
        .is_ok_and(|status| status.success());
    if !recent {
        fail(&format!("the installed libdpdk is {found}, which is too old"));
    }
}

/// Runs bindgen over the shim; the C bodies of the static inline functions go to `inlines`.
fn generate(cflags: &[String], bindings: &Path, inlines: &Path) {
    let header = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets it")).join("src/shim.h");
    let mut builder = bindgen::Builder::default()
        .header(header.to_str().expect("the checkout's path is UTF-8"))
        .clang_args(cflags)
        // Watches the shim and every header of DPDK's: an upgrade of the library rebuilds this.
        .parse_callbacks(Box::new(bindgen::CargoCallbacks::new()))
        .wrap_static_fns(true)
        .wrap_static_fns_path(inlines)
        .allowlist_var("PMD_.*")
        .allowlist_var("rte_eth_fp_ops")
        .allowlist_type("rte_eth_(dev_info|conf|rxconf|txconf|stats|xstat|xstat_name|fp_ops)")
        // Thread-locals have no bindgen form; `pmd_errno` and `pmd_thread_is_lcore` read the two that matter.
        .blocklist_var("per_lcore_.*")
        // Reached through the PMD_MBUF_* offsets, which hold for every release; their field layout in Rust
        // would change with the anonymous unions of each.
        .opaque_type("rte_mbuf")
        .opaque_type("rte_mempool")
        .opaque_type("rte_flow")
        // Some of DPDK's comments look like documentation tests.
        .generate_comments(false)
        .derive_debug(false)
        .layout_tests(true)
        .merge_extern_blocks(true)
        .wrap_unsafe_ops(true)
        .rust_edition(bindgen::RustEdition::Edition2024);
    for function in FUNCTIONS {
        builder = builder.allowlist_function(function);
    }
    // bindgen panics when there is no libclang to load.
    let generated = catch_unwind(AssertUnwindSafe(|| builder.generate()))
        .unwrap_or_else(|_| fail("bindgen cannot load libclang"))
        .unwrap_or_else(|error| fail(&format!("bindgen cannot read DPDK's headers: {error}")));
    if let Err(error) = generated.write_to_file(bindings) {
        fail(&format!("{}: {error}", bindings.display()));
    }
}

fn compile(cflags: &[String], inlines: &Path) {
    let mut build = cc::Build::new();
    build.file(inlines).include(env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets it"));
    for flag in cflags {
        build.flag(flag);
    }
    // These are called per burst: a debug build of the Rust side must not slow them down.
    build.opt_level(3).warnings(false);
    build
        .try_compile("pmd_inlines")
        .unwrap_or_else(|error| fail(&format!("the C compiler failed on DPDK's headers: {error}")));
}

/// Dynamic, so that EAL finds the drivers of whatever NIC the user has in the library's own plug-in folder.
fn link() {
    for flag in pkg_config(&["--libs", "libdpdk"]) {
        if let Some(folder) = flag.strip_prefix("-L") {
            println!("cargo:rustc-link-search=native={folder}");
        } else if let Some(library) = flag.strip_prefix("-l") {
            println!("cargo:rustc-link-lib=dylib={library}");
        }
    }
}
