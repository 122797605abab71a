package relay

import (
	"crypto/hmac"
	"crypto/sha1"
	"encoding/base64"
	"errors"
	"strconv"
	"strings"
	"time"
)

// Credentials are made and checked as "A REST API For Access To TURN Services"
// (draft-uberti-behave-turn-rest) says; coturn calls it use-auth-secret. The user name is the second
// at which they run out and, after a colon, who they are for; the password proves that whoever
// made them knows the secret. Nothing is stored.

// Mint makes credentials for user that hold until expiry.
func Mint(secret []byte, user string, expiry time.Time) (username, password string) {
	username = strconv.FormatInt(expiry.Unix(), 10) + ":" + user
	return username, sign(secret, username)
}

func sign(secret []byte, username string) string {
	mac := hmac.New(sha1.New, secret)
	mac.Write([]byte(username))
	return base64.StdEncoding.EncodeToString(mac.Sum(nil))
}

// maxUsername bounds what is looked at: expiry, colon, a peer's id (RFC 8489, section 14.3, allows 508).
const maxUsername = 128

var errUsername = errors.New("the user name is not expiry:user")

// parseUsername takes a user name of Mint apart.
func parseUsername(username string) (expiry time.Time, user string, err error) {
	seconds, user, found := strings.Cut(username, ":")
	n, err := strconv.ParseUint(seconds, 10, 40)
	if !found || user == "" || len(username) > maxUsername || err != nil {
		return time.Time{}, "", errUsername
	}
	return time.Unix(int64(n), 0), user, nil
}
