package conncfg

import (
	"strings"
	"testing"
)

// Rows 48, 50, 51, 52, 98, 100: what the policy of an environment asks is refused there with the field, the value and the way out, in no other
// environment, and with a reason in the definition it is a warning that has the reason.
func TestPolicies(t *testing.T) {
	for name, c := range map[string]struct {
		policy, fields, test string // of Production, of the definition, and of its table for Test
		code                 Code
		field, value, hint   string
	}{
		"requireTLS is what Production asks by itself": {"", `protocol = "FTP"`, "", CodeCleartext, "protocol", "FTP", "FTPS"},
		"forbidAnonymous likewise":                     {"", "protocol = \"FTPS\"\nusername = \"ftp\"", "", CodeAnonymous, "username", "ftp", "account"},
		"forbidLiteralSecrets":                         {"forbidLiteralSecrets = true", `password = "literal"`, "", CodeLiteralSecret, "password", "", "pierfs vars extract"},
		"readOnly":                                     {"readOnly = true", "", "", CodePolicy, "readOnly", "false", "readOnly = true"},
		"requireAuthority likewise": {"", "protocol = \"FTPS\"\ntrustCert = \"SHA256:+DiY3wvvV6TuJJhbpZisF/zLDA0zPMSvHdkr4UvCOqU\"", "",
			CodePolicy, "trustCert", "SHA256:+DiY3wvvV6TuJJhbpZisF/zLDA0zPMSvHdkr4UvCOqU", "caFile"},
		"namePrefix": {`namePrefix = "Prod_"`, "", "", CodePolicy, "name", "ok", "replace"},
	} {
		files := func(more string) map[string]string {
			return with(map[string]string{"connections/ok.toml": define(c.fields+more) + "[environments.Test]\nhost = \"test.example.com\"\nprotocol = \"SFTP\"\n" + c.test,
				"environments/Production.toml": "[policy]\n" + c.policy, "pierfs.toml": `activeEnvironments = ["Production", "Test"]`})
		}
		got := errorsOf(check(t, files("")))
		if len(got) != 1 || got[0].Code != c.code || got[0].Field != c.field || got[0].Value != c.value || got[0].Environment != "Production" || !strings.Contains(got[0].Hint, c.hint) {
			t.Errorf("%s: found%s", name, printed(got))
		}
		got = check(t, files("\nexception = \"ticket 7\""))
		if HasErrors(got) || !strings.Contains(printed(got), "ticket 7") {
			t.Errorf("%s, excepted: found%s", name, printed(got))
		}
		off := strings.NewReplacer("true", "false", "Prod_", "").Replace(c.policy) + "\nrequireTLS = false\nforbidAnonymous = false\nrequireAuthority = false"
		if c.policy != "" && strings.Contains(c.policy, "forbidAnonymous") {
			off = c.policy
		}
		loose := files("")
		loose["environments/Production.toml"] = "[policy]\n" + off
		if got := errorsOf(check(t, loose)); len(got) > 0 {
			t.Errorf("%s, not asked for: found%s", name, printed(got))
		}
	}
}

// Row 50: a connection may not reach in Test what one reaches in an environment that keeps its hosts to itself: not by its definition, not by
// a variable, and not by a further host; Resolve refuses as Check does.
func TestHostsOfAnEnvironmentAreItsOwn(t *testing.T) {
	for fields, refused := range map[string]bool{
		`host = "PROD.example.com"`: true, `host = "${h}"`: true, `host = "test.example.com"`: false, "host = \"test.example.com\"\nfallbackHosts = \"prod.example.com:2222\"": true,
		"host = \"prod.example.com\"\nexception = \"the test system stands there too\"": false,
	} {
		files := with(map[string]string{
			"connections/ok.toml":          define("") + "[environments.Test]\nhost = \"elsewhere.example.com\"\n[environments.Production]\nhost = \"prod.example.com\"\n",
			"connections/other.toml":       define("") + "[environments.Production]\nhost = \"other.example.com\"\n[environments.Test]\n" + fields + "\n",
			"environments/Production.toml": "[policy]\nownHosts = true\n",
			"environments/Test.toml":       "[variables]\nh = \"prod.example.com\"\npw = { env = \"HOME\" }\n",
			"pierfs.toml":                  `activeEnvironments = ["Test"]`,
		})
		dir := tree(t, files)
		c, _ := Load(dir)
		got := errorsOf(c.Check())
		if (len(got) == 1 && got[0].Code == CodeSameEndpoint && got[0].Connection == "other" && got[0].Environment == "Test") != refused || !refused && len(got) > 0 {
			t.Errorf("%s: found%s", fields, printed(got))
		}
		if _, got := c.Resolve(t.Context(), "other", "Test"); HasErrors(got) != refused {
			t.Errorf("%s: resolving finds%s", fields, printed(got))
		}
	}
}

// Row 102: roles count only where those who have none cannot write them, and mistakes are told with their place.
func TestRolesAreRead(t *testing.T) {
	c, findings := Load(tree(t, with(map[string]string{"pierfs.toml": `activeEnvironments = ["Test"]
[roles]
viewer = ["@staff"]
admin = ["alice", "1001"]
[roles.projects.shop]
operator = ["bob"]
`})))
	if len(findings) > 0 {
		t.Fatalf("found%s", printed(findings))
	}
	g := c.Roles()
	for _, w := range []struct {
		role    Role
		project string
		want    string
	}{{Viewer, "", "1001 @staff alice"}, {Operator, "", "1001 alice"}, {Operator, "shop", "1001 alice bob"}, {Admin, "shop", "1001 alice"}, {Approver, "", ""}} {
		if got := strings.Join(g.Who(w.role, w.project), " "); got != w.want {
			t.Errorf("%s of %q: %q, want %q", w.role, w.project, got, w.want)
		}
	}
	for text, want := range map[string]Code{"[roles]\nking = [\"a\"]": CodeUnknownKey, "[roles]\nadmin = \"a\"": CodeWrongType, "[roles]\nadmin = [1]": CodeWrongType, "[roles]\nadmin = [\"@\"]": CodeWrongType,
		"roles = 1": CodeWrongType, "[roles]\nprojects = 1": CodeWrongType, "[roles.projects]\nx = 1": CodeWrongType} {
		c, findings := Load(tree(t, with(map[string]string{"pierfs.toml": "activeEnvironments = [\"Test\"]\n" + text})))
		if len(findings) != 1 || findings[0].Code != want || findings[0].Line < 2 {
			t.Errorf("%s: found%s", text, printed(findings))
		}
		if len(c.Roles().Who(Admin, "")) > 0 {
			t.Errorf("%s: somebody is admin", text)
		}
	}
}

// Holds row 100 of the requirements: but in Development a certificate counts by its authority alone, also where somebody has said to trust it, unless the
// definition says why, or the environment does not ask for it.
func TestOnlyAuthoritiesCountButInDevelopment(t *testing.T) {
	for _, c := range []struct {
		env, more, policy string
		want              bool
	}{{production, "", "", true}, {production, "exception = \"ticket 7\"\n", "", false}, {"Test", "", "", true}, {"Staging", "", "", true}, {development, "", "", false},
		{development, "", "[policy]\nrequireAuthority = true\n", true},
		{production, "", "[policy]\nrequireAuthority = false\n", false}} {
		config, _ := Load(tree(t, with(map[string]string{"connections/ok.toml": strings.Replace(good, "SFTP", "FTPS", 1) + c.more, "environments/" + c.env + ".toml": c.policy + "\n"})))
		target, findings := config.Resolve(t.Context(), "ok", c.env)
		if HasErrors(findings) || target.TLS.OnlyAuthorities != c.want {
			t.Errorf("%s %q %q: only authorities: %v, want %v%s", c.env, c.more, c.policy, target.TLS.OnlyAuthorities, c.want, printed(findings))
		}
	}
}
