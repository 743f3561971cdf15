//! `benches/results`: the table with what it was measured on, and the plots. Nothing in it names a machine or a day, so that
//! two runs differ in their figures alone.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::thread;

use crate::fault::Fault;
use crate::report::Section;

const HEAD: &str = "\
# What it costs

Written by `cargo bench --bench gateway`. Each part is a process of its own on one machine, over loopback: the gateway, the
vendor's stand-in, what the gateway is compared with (`bare`: tonic and reqwest, one REST call a call and nothing else;
`memory`: a plain tonic server that answers from a map), and the load, which checks every answer and keeps every latency.
CPU is what the system counts for the server's process. The parts take turns for several rounds; figures are medians, and a
ratio is the median of the rounds' ratios. All parts share the machine's cores: calls a second and latencies are those of
the whole, and only their ratios tell of the server.
";

/// Writes all of it.
pub(crate) fn write(folder: &Path, sections: &[Section]) -> Result<(), Fault> {
    fs::create_dir_all(folder).map_err(Fault::of("the results' folder"))?;
    let put = |name: &str, text: &str| fs::write(folder.join(name), text).map_err(Fault::of(name));
    let mut text = format!("{HEAD}\n{}", machine());
    for section in sections {
        text.push_str(&markdown(section));
        for plot in &section.plots {
            put(plot.file, &plot.svg())?;
        }
    }
    put("README.md", &text)
}

fn markdown(section: &Section) -> String {
    let mut text = format!("\n## {}\n{}.\n", section.name, section.title);
    if !section.lines.is_empty() {
        let row = |cells: &[String]| format!("| {} |\n", cells.join(" | "));
        let rule: Vec<_> = section
            .columns
            .iter()
            .enumerate()
            .map(|(column, _)| if column == 0 { "---" } else { "---:" })
            .collect();
        text.push_str(&format!("\n{}| {} |\n", row(&section.columns), rule.join(" | ")));
        text.extend(section.lines.iter().map(|line| row(line)));
    }
    if !section.goals.is_empty() {
        text.push('\n');
        text.extend(section.goals.iter().map(|goal| format!("- {}\n", goal.text())));
    }
    text.extend(section.notes.iter().map(|note| format!("\n{note}\n")));
    text.extend(section.plots.iter().map(|plot| format!("\n![{}]({})\n", plot.description(), plot.file)));
    text
}

/// What figures depend on.
fn machine() -> String {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let cores = thread::available_parallelism().map_or(0, usize::from);
    let cpu = read("/proc/cpuinfo");
    let cpu = cpu
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(": "))
        .map(|(_, name)| name.trim());
    // Its first two numbers: what follows is who built it.
    let kernel = read("/proc/sys/kernel/osrelease");
    let kernel: Vec<_> = kernel.trim().splitn(3, '.').take(2).collect();
    let rustc = Command::new("rustc").arg("--version").output().ok();
    let rustc = rustc.and_then(|output| String::from_utf8(output.stdout).ok()).unwrap_or_default();
    let rustc = rustc.split(' ').nth(1).unwrap_or("unknown").to_owned();
    format!(
        "Measured on {cores} cores of {}, Linux {}, rustc {rustc}.\n",
        cpu.unwrap_or("an unknown CPU"),
        kernel.join(".")
    )
}
