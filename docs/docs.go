// Package docs holds the pages that the programs carry with them.
package docs

import _ "embed"

// Definitions is DEFINITIONS.md: how connections, environments and variables are written.
//
//go:embed DEFINITIONS.md
var Definitions string
