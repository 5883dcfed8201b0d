--- Signatures: the functions of sign.core, and what is put together of them here: JWTs, nonces, SigV4's fields.
local core, secrets, json = require "sign.core", require "secret", require "json"
local M = {}
for name, f in pairs(core) do M[name] = f end

--- sign.jwt{ alg=, key=, header={…}, claims={…} } -> string | secret | nil, code (see key_problem)
-- RFC 7515 7.1. Claims are whatever json.build takes; a header member is kept but for `alg`.
function M.jwt(o)
  if type(o) ~= "table" or type(o.claims) ~= "table" then error("jwt: claims is a table", 2) end
  local header = { typ = "JWT" }
  for name, v in pairs(o.header or {}) do header[name] = v end
  header.alg = o.alg
  local signed = secrets.base64url(json.build(header)) .. "." .. secrets.base64url(json.build(o.claims))
  local signature, code = core.signature(o.alg, o.key, signed)
  if not signature then return nil, code end
  return signed .. "." .. secrets.base64url(signature)
end

--- sign.nonce() -> 32 random hex digits, for a jti or a nonce. A string, since a nonce is no secret.
function M.nonce()
  local _, digest = require("host").random_token ""
  return digest:sub(1, 32)
end

--- sign.sigv4{ method=, host=, path=, body=, access_key=, secret=, token=, region=, service= [, at=] }
--   -> { {name, value}, … }: the fields that sign a request of our own. at: Unix seconds.
function M.sigv4(o)
  local authorization, date, token = core.sigv4(o)
  return { { "authorization", authorization }, { "x-amz-date", date }, token and { "x-amz-security-token", o.token } or nil }
end

return M
