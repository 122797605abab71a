// Package static holds the page: plain ES modules, served as they are.
package static

import "embed"

// Files is what ships: the pages, their styles and their modules. Tests do not ship.
//
//go:embed *.html *.css js protocol.json
var Files embed.FS
