package conncfg

import (
	"errors"
	"fmt"
	"os"
	"path"
	"slices"
	"strings"
)

// Files returns every file below dir that Load looks at, by its slash-separated name, and what could not be read.
func Files(dir string) (map[string][]byte, []Finding) {
	root, err := os.OpenRoot(dir)
	if errors.Is(err, os.ErrNotExist) {
		return map[string][]byte{}, nil
	}
	if err != nil {
		return nil, []Finding{{Severity: Error, Code: CodeRead, File: dir, Message: reason(err), Hint: "check --config-dir"}}
	}
	defer root.Close()
	l := &loader{config: newConfig(dir), root: root, fs: root.FS()}
	files := map[string][]byte{}
	take := func(name string) {
		if data, _, ok := l.read(name); ok {
			files[name] = data
		}
	}
	for _, name := range []string{settingsFile, variablesFile} {
		if l.exists(name) {
			take(name)
		}
	}
	_, environments := l.list(environmentDir)
	for _, name := range environments {
		take(path.Join(environmentDir, name+".toml"))
	}
	projects, connections := l.list(connectionsDir)
	for _, name := range connections {
		take(path.Join(connectionsDir, name+".toml"))
	}
	for _, project := range projects {
		_, inside := l.list(path.Join(connectionsDir, project))
		for _, name := range inside {
			take(path.Join(connectionsDir, project, name+".toml"))
		}
	}
	torn := slices.DeleteFunc(l.config.findings, func(f Finding) bool { return f.Code != CodeRead && f.Code != CodeSymlink })
	return files, torn
}

// ConnectionFile returns the file of a connection below the configuration directory.
func ConnectionFile(name string) string { return path.Join(connectionsDir, name+".toml") }

// EnvironmentFile returns the file of an environment's variables; of the global ones if env is "".
func EnvironmentFile(env string) string {
	if env == "" {
		return variablesFile
	}
	return path.Join(environmentDir, env+".toml")
}

// SettingsFile is that of the whole daemon.
const SettingsFile = settingsFile

// CheckFile returns an error unless name is that of a file which Load would look at: nothing else is ever written.
func CheckFile(name string) error {
	stem, ok := strings.CutSuffix(name, ".toml")
	dir, rest, nested := strings.Cut(stem, "/")
	switch {
	case ok && (name == settingsFile || name == variablesFile):
		return nil
	case ok && nested && dir == connectionsDir && CheckFullName(rest) == nil:
		return nil
	case ok && nested && dir == environmentDir && CheckName(rest) == nil:
		return nil
	}
	return fmt.Errorf("%q is no file of a configuration", name)
}

// exists reports whether there is something of that name.
func (l *loader) exists(name string) bool {
	if data, ok := l.instead[name]; ok {
		return data != nil
	}
	if l.root == nil {
		return false
	}
	_, err := l.root.Lstat(name)
	return !errors.Is(err, os.ErrNotExist)
}

// mode is the permissions that a file has, or will have: Store keeps those of an existing file.
func (l *loader) mode(name string) os.FileMode {
	if l.root != nil {
		if info, err := l.root.Stat(name); err == nil {
			return info.Mode().Perm()
		}
	}
	return 0o600
}

// listInstead puts the files that count in place of those on disk into a listing.
func (l *loader) listInstead(dir string, dirs, files []string) (alsoDirs, alsoFiles []string) {
	for name, data := range l.instead {
		rest, below := strings.CutPrefix(name, dir+"/")
		if !below {
			continue
		}
		first, _, deeper := strings.Cut(rest, "/")
		stem, isFile := strings.CutSuffix(first, ".toml")
		switch {
		case deeper && data != nil && !slices.Contains(dirs, first):
			dirs = append(dirs, first)
		case !deeper && isFile && data == nil:
			files = slices.DeleteFunc(files, func(other string) bool { return other == stem })
		case !deeper && isFile && !slices.Contains(files, stem):
			files = append(files, stem)
		}
	}
	slices.Sort(dirs)
	slices.Sort(files)
	return dirs, files
}
