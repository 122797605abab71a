package httpapi

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"io/fs"
	"net/http"
	"path"
	"strings"
	"time"
)

// assets serves the page's files from memory. Each has a strong ETag made from its content and is
// checked again on each use ("no-cache"), so a new server means a new page at once and an old one costs
// a 304. What is not a file is a 404: directories are not listed.
//
// The library, everything under js/, is for pages of any origin: a module is fetched with CORS, and a
// page that isolates itself (COEP) takes even a plain script only from who agrees. Whose page may open
// a WebSocket here is another question (originPolicy).
type assets struct {
	files map[string]*asset // by path without a leading slash; "" is index.html, "doctor" is doctor.html
}

type asset struct {
	body        []byte
	contentType string
	etag        string
}

// contentTypes names the types that ship. The system's own table is left alone: it differs from machine
// to machine, and a module served as text/plain does not run.
var contentTypes = map[string]string{
	".css":         "text/css; charset=utf-8",
	".html":        "text/html; charset=utf-8",
	".ico":         "image/x-icon",
	".js":          "text/javascript; charset=utf-8",
	".json":        "application/json",
	".md":          "text/markdown; charset=utf-8",
	".png":         "image/png",
	".svg":         "image/svg+xml",
	".ts":          "application/typescript", // declarations of the library's types
	".webmanifest": "application/manifest+json",
}

// loadAssets reads all of files. It panics when one cannot be read or is of a type that contentTypes
// does not name: both are faults of the build.
func loadAssets(files fs.FS) *assets {
	a := &assets{files: make(map[string]*asset)}
	err := fs.WalkDir(files, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		body, err := fs.ReadFile(files, name)
		if err != nil {
			return err
		}
		contentType, ok := contentTypes[path.Ext(name)]
		if !ok {
			return fmt.Errorf("%s: no content type for %q", name, path.Ext(name))
		}
		sum := sha256.Sum256(body)
		etag := `"` + base64.RawURLEncoding.EncodeToString(sum[:16]) + `"`
		a.files[name] = &asset{body, contentType, etag}
		return nil
	})
	if err != nil {
		panic("httpapi: page: " + err.Error())
	}
	a.files[""] = a.files["index.html"]
	a.files["doctor"] = a.files["doctor.html"] // at a path without a slash, so that its relative addresses hold
	return a
}

// ServeHTTP answers for the file named by the request's path.
func (a *assets) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.Header().Set("Allow", "GET, HEAD")
		plainText(w, http.StatusMethodNotAllowed, "The page is read with GET or HEAD.")
		return
	}
	file := a.files[r.URL.Path]
	if file == nil {
		plainText(w, http.StatusNotFound, "Not found.")
		return
	}
	h := w.Header()
	h.Set("Content-Type", file.contentType)
	h.Set("Etag", file.etag)
	h.Set("Cache-Control", "no-cache")
	if strings.HasPrefix(r.URL.Path, "js/") {
		h.Set("Access-Control-Allow-Origin", "*")
		h.Set("Cross-Origin-Resource-Policy", "cross-origin")
	}
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(file.body)) // HEAD, If-None-Match, Range
}
