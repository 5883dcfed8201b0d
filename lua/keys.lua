--- The module keys of policies: sign.key_problem with a sentence for each of its codes.
local sign = require "sign"
local M = {}

local sentences = {
  not_a_key        = "is not a PEM private key: it has no -----BEGIN line",
  malformed        = "is damaged: it begins like a private key, and cannot be read as one",
  unsupported      = "is a private key of a kind that is not known here (RSA to 4096 bits, P-256, P-384)",
  openssh_format   = "is in OpenSSH's own format; ssh-keygen -p -m PKCS8 -f FILE writes PEM",
  no_private_key   = "is a certificate or a public key, not the private key",
  escaped_newlines = "has \\n spelled out, as JSON has it, in place of line breaks",
  json             = "is JSON (a JWK, or a whole key file), not a PEM private key",
  encrypted        = "is protected by a passphrase; openssl pkey -in FILE -out NEW takes it away",
  weak_key         = "is an RSA key of less than 2048 bits",
  bad_key          = "is a key that signs wrongly: its parts do not belong together",
}

local wanted = { ES256 = "EC key on P-256", ES384 = "EC key on P-384" }

--- keys.problem(alg, key) -> nil (it can sign) | sentence, code
-- The sentence stands behind the field's name: "is protected by a passphrase". Codes: those of `sentences`.
function M.problem(alg, key)
  local _, code = sign.signature(alg, key, "probe")
  if code == "wrong_key" then return ("is no %s, which %s needs"):format(wanted[alg] or "RSA key", alg), code end
  return code and (sentences[code] or "cannot be used"), code
end

return M
