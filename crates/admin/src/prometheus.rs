//! Statistics in the text format of Prometheus (`prometheus` module). Serves nothing itself; see [`crate::http`].

use std::fmt::Write as _;
use std::sync::Arc;

use hashbrown::HashMap;
use tandem_module::stat::StatRegistry;

use crate::http::{HttpHandler, HttpRequest, HttpResponse};

/// How the group of a statistic is shown (`group_mode`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GroupMode {
    /// Not at all (0).
    Hidden,
    /// In the name (1).
    InName,
    /// As a label (2).
    Label,
}

/// Parameters of the `prometheus` module.
#[derive(Clone, Debug)]
pub struct MetricsConfig {
    /// First part of every name (`prefix`).
    pub prefix: String,
    /// What stands before the group in a name (`group_prefix`).
    pub group_prefix: String,
    /// Between the parts of a name (`delimiter`).
    pub delimiter: String,
    /// How the group is shown.
    pub group_mode: GroupMode,
    /// Name of the label with [`GroupMode::Label`] (`group_label`).
    pub group_label: String,
    /// Names, `group:name`s and `group:`s to show (`statistics`); empty shows all.
    pub statistics: Vec<String>,
}

impl Default for MetricsConfig {
    /// All statistics as `tandem_<group>_<name>`.
    fn default() -> MetricsConfig {
        MetricsConfig {
            prefix: "tandem".into(),
            group_prefix: String::new(),
            delimiter: "_".into(),
            group_mode: GroupMode::InName,
            group_label: "group".into(),
            statistics: Vec::new(),
        }
    }
}

/// The text: one `untyped` metric per statistic (the registry does not tell counters from gauges), sorted by name.
/// Statistics whose names fall together once sanitised get a number behind.
pub fn render(stats: &StatRegistry, config: &MetricsConfig) -> String {
    let mut metrics: Vec<(String, String, i64)> = Vec::new();
    for (group, name, value) in stats.snapshot() {
        if is_wanted(&group, &name, config) {
            metrics.push((metric_name(&group, &name, config), label(&group, config), value));
        }
    }
    metrics.sort();
    let mut seen: HashMap<(String, String), u32> = HashMap::new();
    let mut out = String::new();
    let mut last = String::new();
    for (mut name, label, value) in metrics {
        let count = seen.entry((name.clone(), label.clone())).or_default();
        *count += 1;
        if *count > 1 {
            let _ = write!(name, "_{count}");
        }
        if name != last {
            let _ = writeln!(out, "# TYPE {name} untyped");
            last.clone_from(&name);
        }
        let _ = writeln!(out, "{name}{label} {value}");
    }
    out
}

/// A handler for [`crate::http::HttpRoutes::add`], usually under `metrics`.
pub fn handler(stats: Arc<StatRegistry>, config: MetricsConfig) -> HttpHandler {
    Arc::new(move |request: HttpRequest| {
        let response = match request.method.as_str() {
            "GET" | "HEAD" => {
                HttpResponse::new(200, "text/plain; version=0.0.4; charset=utf-8", render(&stats, &config))
            }
            _ => HttpResponse::method_not_allowed("GET, HEAD", "Metrics are read with GET."),
        };
        Box::pin(std::future::ready(response))
    })
}

fn is_wanted(group: &str, name: &str, config: &MetricsConfig) -> bool {
    config.statistics.is_empty()
        || config.statistics.iter().any(|wanted| match wanted.split_once(':') {
            Some((of_group, "")) => of_group == group,
            Some((of_group, of_name)) => of_group == group && of_name == name,
            None => wanted == name || wanted == "all",
        })
}

fn metric_name(group: &str, name: &str, config: &MetricsConfig) -> String {
    let group = format!("{}{group}", config.group_prefix);
    let parts: &[&str] = match config.group_mode {
        GroupMode::InName => &[&config.prefix, &group, name],
        _ => &[&config.prefix, name],
    };
    let parts: Vec<&str> = parts.iter().copied().filter(|part| !part.is_empty()).collect();
    sanitised(&parts.join(&config.delimiter))
}

fn label(group: &str, config: &MetricsConfig) -> String {
    if config.group_mode != GroupMode::Label {
        return String::new();
    }
    let value =
        format!("{}{group}", config.group_prefix).replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
    format!("{{{}=\"{value}\"}}", sanitised(&config.group_label))
}

/// Only `[a-zA-Z0-9_]`, and no digit in front.
fn sanitised(name: &str) -> String {
    let mut out: String = name.chars().map(|char| if char.is_ascii_alphanumeric() { char } else { '_' }).collect();
    if out.starts_with(|char: char| char.is_ascii_digit()) {
        out.insert(0, '_');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::{GroupMode, MetricsConfig, render};
    use tandem_module::stat::StatRegistry;

    fn stats() -> StatRegistry {
        let stats = StatRegistry::default();
        stats.stat("tm", "2xx_transactions").add(7);
        stats.stat("usrloc", "location-contacts").set(3);
        stats.stat("usrloc", "location.contacts").set(4);
        stats.computed("core", "timestamp", || -1);
        stats
    }

    #[test]
    fn names_are_sanitised_and_never_doubled() {
        let expected = "# TYPE tandem_core_timestamp untyped
tandem_core_timestamp -1
# TYPE tandem_tm_2xx_transactions untyped
tandem_tm_2xx_transactions 7
# TYPE tandem_usrloc_location_contacts untyped
tandem_usrloc_location_contacts 3
# TYPE tandem_usrloc_location_contacts_2 untyped
tandem_usrloc_location_contacts_2 4
";
        assert_eq!(render(&stats(), &MetricsConfig::default()), expected);
    }

    #[test]
    fn groups_may_be_labels_and_statistics_chosen() {
        let config = MetricsConfig {
            prefix: "opensips".into(),
            group_mode: GroupMode::Label,
            statistics: vec!["tm:".into(), "timestamp".into()],
            ..MetricsConfig::default()
        };
        let expected = "# TYPE opensips_2xx_transactions untyped
opensips_2xx_transactions{group=\"tm\"} 7
# TYPE opensips_timestamp untyped
opensips_timestamp{group=\"core\"} -1
";
        assert_eq!(render(&stats(), &config), expected);
        let config = MetricsConfig {
            prefix: String::new(),
            group_mode: GroupMode::Hidden,
            statistics: vec!["tm:2xx_transactions".into()],
            ..MetricsConfig::default()
        };
        assert_eq!(render(&stats(), &config), "# TYPE _2xx_transactions untyped\n_2xx_transactions 7\n");
    }
}
