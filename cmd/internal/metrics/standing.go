package metrics

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"pierfs/cmd/internal/control"
)

// figure is one figure of a connection, taken from how it stands.
type figure struct {
	desc *prometheus.Desc
	kind prometheus.ValueType
	of   func(Connection) (float64, bool) // false where it is not known
}

func gauge(name, help string, of func(Connection) (float64, bool)) figure {
	return figure{prometheus.NewDesc(name, help, ofConnection, nil), prometheus.GaugeValue, of}
}

func counter(name, help string, of func(Connection) (float64, bool)) figure {
	return figure{prometheus.NewDesc(name, help, ofConnection, nil), prometheus.CounterValue, of}
}

// mounted is a figure that is known of what is mounted.
func mounted(of func(Connection) float64) func(Connection) (float64, bool) {
	return func(c Connection) (float64, bool) { return of(c), c.Mounted }
}

// owing is a figure that is known where the journal can be read.
func owing(of func(Connection) float64) func(Connection) (float64, bool) {
	return func(c Connection) (float64, bool) { return of(c), !c.Damaged }
}

func truth(is bool) float64 {
	if is {
		return 1
	}
	return 0
}

// figures are those of each connection.
var figures = []figure{
	gauge("pierfs_ready", "1 if the connection is mounted and its server answers, else 0.",
		mounted(func(c Connection) float64 { return truth(c.State == control.StateReady) })),
	gauge("pierfs_offline_seconds", "For how long the server has been away; 0 if it is not.",
		mounted(func(c Connection) float64 {
			if c.State != control.StateOffline {
				return 0
			}
			return max(0, time.Since(c.Since).Seconds())
		})),
	gauge("pierfs_open_files", "Files that programs have open.", mounted(func(c Connection) float64 { return float64(c.OpenFiles) })),
	gauge("pierfs_quarantined", "Contents that could not be brought to the server and wait for a person.",
		mounted(func(c Connection) float64 { return float64(c.Quarantined) })),
	counter("pierfs_conflicts_total", "Changes that met somebody else's since the connection was mounted.",
		mounted(func(c Connection) float64 { return float64(c.Conflicts) })),
	gauge("pierfs_certificate_expiry_timestamp_seconds", "When the certificate ends that the server has shown at its last login, as Unix time.",
		func(c Connection) (float64, bool) { return float64(c.Certificate.Unix()), !c.Certificate.IsZero() }),
	gauge("pierfs_client_certificate_expiry_timestamp_seconds", "When the certificate ends that is shown to the server, as Unix time.",
		func(c Connection) (float64, bool) {
			return float64(c.ClientCertificate.Unix()), !c.ClientCertificate.IsZero()
		}),
	gauge("pierfs_authority_expiry_timestamp_seconds", "When the last of the authorities ends that the definition believes, as Unix time.",
		func(c Connection) (float64, bool) { return float64(c.Authority.Unix()), !c.Authority.IsZero() }),
	gauge("pierfs_secret_rotation_timestamp_seconds", "When the first of the secrets that the connection logs in with must be changed, as Unix time.",
		func(c Connection) (float64, bool) { return float64(c.RotateBy.Unix()), !c.RotateBy.IsZero() }),

	gauge("pierfs_journal_damaged", "1 if nobody can tell what is owed, for the journal cannot be read; the figures of what is owed are missing then.",
		func(c Connection) (float64, bool) { return truth(c.Damaged), true }),
	gauge("pierfs_owed_changes", "Changes that were acknowledged and that the server does not have.", owing(func(c Connection) float64 { return float64(c.Owed) })),
	gauge("pierfs_owed_bytes", "Content of these changes.", owing(func(c Connection) float64 { return float64(c.OwedBytes) })),
	gauge("pierfs_owed_oldest_seconds", "For how long the oldest of these changes is owed; 0 if there is none.",
		owing(func(c Connection) float64 { return c.OwedOldest.Seconds() })),
	gauge("pierfs_owed_held", "Those of these changes that are not sent before a person decides.", owing(func(c Connection) float64 { return float64(c.Held) })),
	gauge("pierfs_owed_unserved", "Those of these changes whose server nothing leads to that is mounted.",
		owing(func(c Connection) float64 { return float64(c.Unserved) })),

	counter("pierfs_read_hits_total", "Reads that were answered from here, since the connection was mounted.",
		mounted(func(c Connection) float64 { return float64(c.Reads.Hits) })),
	counter("pierfs_read_misses_total", "Reads that waited for the server.", mounted(func(c Connection) float64 { return float64(c.Reads.Misses) })),
	counter("pierfs_cache_read_bytes_total", "Content that programs were given from here.",
		mounted(func(c Connection) float64 { return float64(c.Reads.FromCache) })),
	counter("pierfs_prefetched_bytes_total", "Content that was fetched ahead of a reader.",
		mounted(func(c Connection) float64 { return float64(c.Reads.Prefetched) })),
	counter("pierfs_prefetch_wasted_bytes_total", "Content of that which nobody had read when the file was closed.",
		mounted(func(c Connection) float64 { return float64(c.Reads.Wasted) })),
}

// overall is one figure of the daemon.
type overall struct {
	desc *prometheus.Desc
	kind prometheus.ValueType
	of   func(Look) (float64, bool)
}

var overalls = []overall{
	{prometheus.NewDesc("pierfs_connections", "Connections that are mounted, or being mounted.", nil, nil), prometheus.GaugeValue,
		func(l Look) (float64, bool) {
			n := 0
			for _, c := range l.Connections {
				if c.Mounted {
					n++
				}
			}
			return float64(n), true
		}},
	{prometheus.NewDesc("pierfs_cache_files", "Files whose content is kept here.", nil, nil), prometheus.GaugeValue,
		func(l Look) (float64, bool) { return float64(l.Kept.Files), true }},
	{prometheus.NewDesc("pierfs_cache_bytes", "Content that is kept here.", nil, nil), prometheus.GaugeValue,
		func(l Look) (float64, bool) { return float64(l.Kept.Bytes), true }},
	{prometheus.NewDesc("pierfs_cache_size_bytes", "How much may be kept here.", nil, nil), prometheus.GaugeValue,
		func(l Look) (float64, bool) { return float64(l.Kept.Size), true }},
	{prometheus.NewDesc("pierfs_state_free_bytes", "Room below the state directory, where what is written lies until the server has it.", nil, nil), prometheus.GaugeValue,
		func(l Look) (float64, bool) { return float64(l.StateFree), l.StateFree >= 0 }},
	{prometheus.NewDesc("pierfs_events_total", "Events that were published.", nil, nil), prometheus.CounterValue,
		func(l Look) (float64, bool) { return float64(l.Events), true }},
}

// findingsDesc is of the definitions.
var findingsDesc = prometheus.NewDesc("pierfs_definition_findings", "What is wrong or odd with the definitions, by severity.", []string{"severity"}, nil)

// standing collects how things stand when somebody reads the figures.
type standing struct{ look func() Look }

// Describe tells all that Collect may tell.
func (s standing) Describe(to chan<- *prometheus.Desc) {
	for _, f := range figures {
		to <- f.desc
	}
	for _, o := range overalls {
		to <- o.desc
	}
	to <- findingsDesc
}

// Collect looks, and tells what is known.
func (s standing) Collect(to chan<- prometheus.Metric) {
	look := s.look()
	for _, c := range look.Connections {
		for _, f := range figures {
			if value, ok := f.of(c); ok {
				to <- prometheus.MustNewConstMetric(f.desc, f.kind, value, c.Name, c.Environment)
			}
		}
	}
	for _, o := range overalls {
		if value, ok := o.of(look); ok {
			to <- prometheus.MustNewConstMetric(o.desc, o.kind, value)
		}
	}
	for _, severity := range []string{"error", "warning"} {
		to <- prometheus.MustNewConstMetric(findingsDesc, prometheus.GaugeValue, float64(look.Findings[severity]), severity)
	}
}
