// Package metrics holds the figures of a daemon for monitoring, by the official library of Prometheus.
//
// There are two kinds. What happens is counted where it happens: calls to servers by a Meter, attempts to come into service by Attempt.
// How things stand is asked for when somebody reads the figures, by the Look that New was given; what could not be learnt then is a
// figure of its own, and all others are there all the same. Connections are told apart by the labels connection and environment.
//
// Names end in their unit, and in _total where they only grow. docs/CLI.md explains each of them, docs/alerts.yml and docs/grafana.json
// use no other; tests hold that.
package metrics

import (
	"io"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/common/expfmt"

	"pierfs/backends"
	"pierfs/cmd/internal/control"
)

// Look is how things stand at one moment.
type Look struct {
	Connections []Connection
	Findings    map[string]int // of the definitions, by severity
	Kept        Kept
	Events      uint64
	StateFree   int64 // bytes free for the daemon below the state directory; negative where nobody knows
}

// Connection is how one connection stands, mounted or not.
type Connection struct {
	Name, Environment string
	// Mounted says that there is a mount, and the figures down to Reads are known.
	Mounted     bool
	State       control.State
	Since       time.Time // that it is in State
	OpenFiles   int
	Quarantined int
	Conflicts   int
	Certificate time.Time // when that which its server has shown ends; zero if it has shown none
	// ClientCertificate and Authority are when those in files of this machine end; zero if there are none.
	ClientCertificate, Authority time.Time
	RotateBy                     time.Time // when the first of its secrets must be changed; zero if none must
	Reads                        Reads

	// Damaged says that its journal could not be read: the figures below are not known.
	Damaged    bool
	Owed       int
	OwedBytes  int64
	OwedOldest time.Duration // for how long the oldest is owed
	Held       int
	Unserved   int
}

// Reads is how what programs read was answered since the connection was mounted.
type Reads struct{ Hits, Misses, FromCache, FromServer, Prefetched, Wasted int64 }

// Kept is what is kept of what was read, of all connections.
type Kept struct {
	Files       int
	Bytes, Size int64
}

// Set is the figures of one daemon. New makes one. Its methods may be called from many goroutines at once.
type Set struct {
	registry    *prometheus.Registry
	calls       *prometheus.CounterVec
	durations   *prometheus.HistogramVec
	moved       map[string]*prometheus.CounterVec
	deployments *prometheus.CounterVec
}

var ofConnection = []string{"connection", "environment"}

// New returns the figures of a daemon of that version. look is called when somebody reads them.
func New(version string, look func() Look) *Set {
	s := &Set{
		registry: prometheus.NewRegistry(),
		calls: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "pierfs_calls_total",
			Help: "Calls to the server, by what they asked for and how they ended."}, append(slices.Clone(ofConnection), "op", "result")),
		durations: prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "pierfs_call_duration_seconds",
			Help: "How long calls to the server took.", Buckets: []float64{.001, .003, .01, .03, .1, .3, 1, 3, 10, 30, 100}}, append(slices.Clone(ofConnection), "kind")),
		moved: map[string]*prometheus.CounterVec{
			"read":  prometheus.NewCounterVec(prometheus.CounterOpts{Name: "pierfs_read_bytes_total", Help: "Content that came from the server."}, ofConnection),
			"write": prometheus.NewCounterVec(prometheus.CounterOpts{Name: "pierfs_written_bytes_total", Help: "Content that went to the server."}, ofConnection),
		},
		deployments: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "pierfs_deployments_total",
			Help: "Attempts to come into service, by the phase that they ended with and the cause of failure."}, append(slices.Clone(ofConnection), "phase", "cause")),
	}
	build := prometheus.NewGauge(prometheus.GaugeOpts{Name: "pierfs_build_info", Help: "Always 1; the labels tell what runs.",
		ConstLabels: prometheus.Labels{"version": version, "goversion": runtime.Version()}})
	build.Set(1)
	s.registry.MustRegister(s.calls, s.durations, s.moved["read"], s.moved["write"], s.deployments, build, standing{look},
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return s
}

// kindOf is what a call of that name is about, for the histogram: one of few.
func kindOf(op string) string {
	switch op {
	case "readat", "readlast", "open":
		return "read"
	case "writeat", "takeover", "create", "update", "commit", "truncate", "sync", "abort":
		return "write"
	case "list":
		return "list"
	}
	return "other"
}

// Meter counts the calls of one connection. Its zero value counts nothing.
type Meter struct {
	set    *Set
	labels prometheus.Labels
}

// Meter returns that of a connection.
func (s *Set) Meter(name, environment string) Meter {
	return Meter{s, prometheus.Labels{"connection": name, "environment": environment}}
}

// Count counts one call that has ended. It does not block.
func (m Meter) Count(c backends.Call) {
	if m.set == nil {
		return
	}
	result, kind := "ok", kindOf(c.Op)
	if c.Err != nil && c.Err != io.EOF {
		result = "error"
	}
	name, environment := m.labels["connection"], m.labels["environment"]
	m.set.calls.WithLabelValues(name, environment, c.Op, result).Inc()
	m.set.durations.WithLabelValues(name, environment, kind).Observe(c.Took.Seconds())
	if bytes := m.set.moved[kind]; bytes != nil && c.Bytes > 0 {
		bytes.WithLabelValues(name, environment).Add(float64(c.Bytes))
	}
}

// Attempt counts one attempt to come into service.
func (s *Set) Attempt(d control.Deployment) {
	s.deployments.WithLabelValues(d.Name, d.Environment, d.Phase, d.Cause).Inc()
}

// Forget drops what was counted of a connection that is no more.
func (s *Set) Forget(name, environment string) {
	labels := s.Meter(name, environment).labels
	s.calls.DeletePartialMatch(labels)
	s.durations.DeletePartialMatch(labels)
	s.deployments.DeletePartialMatch(labels)
	for _, vec := range s.moved {
		vec.DeletePartialMatch(labels)
	}
}

// Text returns all figures in Prometheus' text format 0.0.4.
func (s *Set) Text() (string, error) {
	families, err := s.registry.Gather()
	if err != nil {
		return "", err
	}
	var text strings.Builder
	for _, family := range families {
		if _, err := expfmt.MetricFamilyToText(&text, family); err != nil {
			return "", err
		}
	}
	return text.String(), nil
}

// Figures returns all figures but those of the process and of Go's runtime.
func (s *Set) Figures() ([]control.Metric, error) {
	families, err := s.registry.Gather()
	if err != nil {
		return nil, err
	}
	all := []control.Metric{}
	for _, family := range families {
		if !strings.HasPrefix(family.GetName(), "pierfs_") {
			continue
		}
		m := control.Metric{Name: family.GetName(), Type: strings.ToLower(family.GetType().String()), Help: family.GetHelp()}
		for _, sample := range family.GetMetric() {
			told := control.Sample{Value: sample.GetGauge().GetValue() + sample.GetCounter().GetValue()}
			for _, label := range sample.GetLabel() {
				switch label.GetName() {
				case "connection":
					told.Connection = label.GetValue()
				case "environment":
					told.Environment = label.GetValue()
				default:
					if told.Labels == nil {
						told.Labels = map[string]string{}
					}
					told.Labels[label.GetName()] = label.GetValue()
				}
			}
			if h := sample.GetHistogram(); h != nil {
				told.Value, told.Count = h.GetSampleSum(), h.GetSampleCount()
			}
			m.Samples = append(m.Samples, told)
		}
		all = append(all, m)
	}
	return all, nil
}
