package foreign

import (
	"encoding/base64"
	"encoding/xml"
	"path"
	"strconv"
	"strings"
)

type fzFolder struct {
	Name    string     `xml:",chardata"`
	Folders []fzFolder `xml:"Folder"`
	Servers []fzServer `xml:"Server"`
}

type fzServer struct {
	Host, Port, Protocol, User, Account, Logontype, Keyfile string
	Name, Text                                              string
	Pass                                                    struct {
		Text     string `xml:",chardata"`
		Encoding string `xml:"encoding,attr"`
	}
	PasvMode, EncodingType, CustomEncoding, RemoteDir string
	MaximumMultipleConnections                        string
	Chars                                             string `xml:",chardata"`
}

// maxFolders is how deep folders may lie within each other.
const maxFolders = 50

// fileZilla reads sitemanager.xml.
func (r *reader) fileZilla(text []byte) error {
	var file struct {
		XMLName xml.Name
		Servers fzFolder
	}
	if err := xml.Unmarshal(text, &file); err != nil {
		return refuse("it is no XML: %v", err)
	}
	if file.XMLName.Local != "FileZilla3" {
		return refuse("it is no sitemanager.xml of FileZilla: it holds <%s>", clip(file.XMLName.Local))
	}
	r.fzFolder(file.Servers, 0)
	return nil
}

func (r *reader) fzFolder(f fzFolder, depth int) {
	if depth > maxFolders {
		r.note("folders that lie deeper than %d were left out", maxFolders)
		return
	}
	for _, s := range f.Servers {
		r.fzServer(s)
	}
	for _, below := range f.Folders {
		r.fzFolder(below, depth+1)
	}
}

func (r *reader) fzServer(f fzServer) {
	name := strings.TrimSpace(f.Name)
	if name == "" {
		name = strings.TrimSpace(f.Chars)
	}
	if name == "" {
		name = f.Host
	}
	protocol, implicit := "", false
	s := &site{}
	switch f.Protocol {
	case "", "0":
		protocol = "FTPS"
	case "4":
		protocol = "FTPS"
	case "3":
		protocol, implicit = "FTPS", true
	case "6":
		protocol = "FTP"
	case "1":
		protocol = "SFTP"
	default:
		r.note("%q was left out: protocol %q is neither FTP nor SFTP", clip(name), clip(f.Protocol))
		return
	}
	s = r.add(name)
	s.set("protocol", protocol)
	if implicit {
		s.fields["useImplicit"] = true
	}
	if f.Protocol == "" || f.Protocol == "0" {
		s.note("TLS was used there if the server had it, and is demanded here: --set protocol=FTP for a server that has none")
	}
	s.set("host", strings.TrimSpace(f.Host))
	s.number("port", f.Port)
	s.fzLogin(f)
	s.fzTransfer(f, protocol)
}

func (s *site) fzLogin(f fzServer) {
	s.set("username", f.User)
	if f.Logontype == "0" {
		s.set("username", "anonymous")
	}
	s.secret("account", f.Account)
	if f.Keyfile != "" {
		s.file("privateKeyFile", f.Keyfile)
	}
	password := f.Pass.Text
	switch f.Pass.Encoding {
	case "base64":
		plain, err := base64.StdEncoding.DecodeString(strings.TrimSpace(password))
		if err != nil {
			s.blanks = append(s.blanks, blank("password", "it cannot be decoded: give it again"))
		}
		password = string(plain)
	case "crypt":
		s.blanks = append(s.blanks, blank("password", "it is encrypted with FileZilla's master password: give it again"))
		password = ""
	}
	s.secret("password", password)
	if f.Logontype == "2" || f.Logontype == "3" {
		s.blanks = append(s.blanks, blank("password", "it was asked for there: give it"))
	}
}

func (s *site) fzTransfer(f fzServer, protocol string) {
	if protocol != "SFTP" {
		if f.PasvMode == "MODE_ACTIVE" {
			s.fields["passive"] = false
		}
		if n := f.MaximumMultipleConnections; n != "0" {
			s.number("maxSessions", n)
		}
	}
	if f.EncodingType == "Custom" {
		s.set("encoding", f.CustomEncoding)
	}
	dir, ok := fzDir(f.RemoteDir)
	if !ok {
		s.note("its directory %q is written in a way that is not known here", clip(f.RemoteDir))
	}
	s.set("workingDir", dir)
}

// fzDir undoes how FileZilla keeps a directory: its kind, a prefix, and each segment behind its length, such as "1 0 4 home 3 dir".
func fzDir(kept string) (dir string, ok bool) {
	if kept == "" {
		return "", true
	}
	number := func() (int, bool) {
		word, rest, _ := strings.Cut(kept, " ")
		kept = rest
		n, err := strconv.Atoi(word)
		return n, err == nil && n >= 0
	}
	if kind, ok := number(); !ok || kind > 1 { // others are not Unix
		return "", false
	}
	if prefix, ok := number(); !ok || prefix != 0 {
		return "", false
	}
	dir = "/"
	for kept != "" {
		n, ok := number()
		runes := []rune(kept)
		if !ok || n > len(runes) {
			return "", false
		}
		dir = path.Join(dir, string(runes[:n]))
		kept = strings.TrimPrefix(string(runes[n:]), " ")
	}
	return dir, true
}
