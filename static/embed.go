// Package static holds the page: plain ES modules, served as they are.
package static

import "embed"

// Files is what ships: the page, its styles and its modules. Tests do not ship.
//
//go:embed index.html *.css js protocol.json
var Files embed.FS
