package bench

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"waymark/services/kit/run"
)

// inspect describes this machine and the disk of a folder. What it cannot find
// out it leaves empty: only Linux tells most of it.
func inspect(dir string) Machine {
	m := Machine{
		Cores: runtime.NumCPU(), Go: runtime.Version(), Version: run.Version(), LoadBefore: loadAverage(),
		System: runtime.GOOS + "/" + runtime.GOARCH, At: run.Clock().UTC().Format(time.DateOnly),
	}
	m.Command = strings.Join(append([]string{filepath.Base(os.Args[0])}, os.Args[1:]...), " ")
	m.CPU = field("/proc/cpuinfo", "model name")
	var kib float64
	if _, err := fmt.Sscanf(field("/proc/meminfo", "MemTotal"), "%f", &kib); err == nil {
		m.Memory = fmt.Sprintf("%.0f GiB", kib/(1<<20))
	}
	if release, err := os.ReadFile("/proc/sys/kernel/osrelease"); err == nil {
		m.System = "Linux " + strings.TrimSpace(string(release))
	}
	m.Disk = fileSystem(dir)
	return m
}

// field finds "name : value" in a file.
func field(path, name string) string {
	content, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	for line := range strings.Lines(string(content)) {
		if k, v, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(k) == name {
			return strings.TrimSpace(v)
		}
	}
	return ""
}

func loadAverage() string {
	content, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return "?"
	}
	if f := strings.Fields(string(content)); len(f) > 0 {
		return f[0]
	}
	return "?"
}

// fileSystem is the type of the file system of a folder: that of the longest
// mount point above it.
func fileSystem(dir string) string {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return ""
	}
	content, err := os.ReadFile("/proc/mounts")
	if err != nil {
		return ""
	}
	longest, kind := -1, ""
	for line := range strings.Lines(string(content)) {
		f := strings.Fields(line)
		if len(f) < 3 || len(f[1]) < longest {
			continue
		}
		if f[1] == "/" || dir == f[1] || strings.HasPrefix(dir, f[1]+"/") {
			longest, kind = len(f[1]), f[2]
		}
	}
	return kind
}
