//! The README's table of settings, made from the table that everything else comes from.

use std::fmt::Write;

use super::table::{SETTINGS, Support};

/// The rule of a setting's names and the table of all settings, as Markdown.
#[must_use]
pub fn markdown() -> String {
    let mut text = String::from(
        "Each setting is a flag of `serve` and `check` (`--poll-min 1s`), an environment variable \
         (`FEDERATION_POLL_MIN=1s`) and a key of the TOML file that `--config` or `FEDERATION_CONFIG` names \
         (`poll-min = \"1s\"`); a flag beats the environment, which beats the file.\n\n\
         | setting | default | meaning |\n|---|---|---|\n",
    );
    for setting in SETTINGS {
        let default = setting.default.map_or_else(|| "–".to_owned(), |default| format!("`{default}`"));
        let mut meaning = format!("{}.", setting.help);
        for more in [
            setting.about,
            if setting.support == Support::None { "Not supported by this version." } else { "" },
        ] {
            if !more.is_empty() {
                meaning.push(' ');
                meaning.push_str(more);
            }
        }
        if setting.support == Support::NoUnixSocket {
            meaning.push_str(" `unix:` is not supported by this version.");
        }
        let meaning = meaning.replace('|', "\\|");
        // Writing to a String can't fail.
        let _ = writeln!(text, "| `{}` | {default} | {meaning} |", setting.name);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_row_a_setting() {
        let text = markdown();
        assert_eq!(text.lines().filter(|line| line.starts_with("| `")).count(), SETTINGS.len());
        assert!(text.contains("| `connect-timeout` | `3s` | Time to connect to the vendor. |\n"));
        assert!(
            text.contains("| `tls-key` | – | The certificate's PEM key. Not supported by this version. |\n")
        );
        assert!(text.lines().skip(2).all(|line| line.matches(" | ").count() <= 2), "{text}");
    }
}
