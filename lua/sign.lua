--- Signatures: the functions of sign.core, and what is put together of them here: JWTs, nonces, SigV4's fields.
local core, secrets, json = require "sign.core", require "secret", require "json"
local M = {}
for name, f in pairs(core) do M[name] = f end

-- A misspelt member must not be one that does nothing.
local function only(o, names, what)
  if type(o) ~= "table" then error(what .. " takes a table", 3) end
  for k in pairs(o) do
    if not names[k] then error(("%s has no key '%s'%s"):format(what, tostring(k), require("policy").meant(k, names)), 3) end
  end
end

local jwt_keys = { alg = 1, key = 1, header = 1, claims = 1 }
local sigv4_keys = {
  method = 1, host = 1, path = 1, body = 1, access_key = 1, secret = 1, token = 1, region = 1, service = 1, region_set = 1, at = 1,
}

--- sign.jwt{ alg=, key=, header={…}, claims={…} } -> string | secret | nil, code (see key_problem)
-- RFC 7515 7.1. Claims are whatever json.build takes; a header member is kept but for `alg`.
function M.jwt(o)
  only(o, jwt_keys, "sign.jwt")
  if type(o.claims) ~= "table" then error("sign.jwt: claims is a table", 2) end
  local header = { typ = "JWT" }
  for name, v in pairs(o.header or {}) do header[name] = v end
  header.alg = o.alg
  local signed = secrets.base64url(json.build(header)) .. "." .. secrets.base64url(json.build(o.claims))
  local signature, code = core.signature(o.alg, o.key, signed)
  if not signature then return nil, code end
  return signed .. "." .. secrets.base64url(signature)
end

--- sign.hmac(alg, key, x) -> string | secret: as secret.hmac.
function M.hmac(alg, key, x) return secrets.hmac(key, alg, x) end

--- sign.nonce() -> 32 random hex digits, for a jti or a nonce. A string, since a nonce is no secret.
function M.nonce()
  local _, digest = require("host").random_token ""
  return digest:sub(1, 32)
end

--- sign.sigv4{ method=, host=, path=, body=, access_key=, secret=, token=, region=, service= [, at=] }
--   -> { {name, value}, … }: the fields that sign a request of our own. at: Unix seconds.
function M.sigv4(o)
  only(o, sigv4_keys, "sign.sigv4")
  if not o.method or not o.host then error("sign.sigv4: method and host are missing", 2) end
  local req <close> = require("example").request { method = o.method, url = "https://" .. o.host .. (o.path or "/") }
  local view = req:view()
  view:sigv4 { access_key = o.access_key, secret = o.secret, token = o.token, region = o.region, service = o.service,
    region_set = o.region_set, at = o.at, payload = secrets.hex(core.sha256(o.body or "")) }
  local out = {}
  for _, name in ipairs { "authorization", "x-amz-date", "x-amz-security-token", "x-amz-region-set" } do
    local value = view.headers:get(name)
    if value then out[#out + 1] = { name, value } end
  end
  return out
end

return M
