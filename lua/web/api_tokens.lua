--- Tokens of the JSON API: made by `sallyport token add`, shown once, kept as a hash under the store's key.
-- Records of `meta`, api-token/NAME { name, hash, scopes, created, expires_at }: that database stands in the table of
-- records, so one that was removed cannot be put back on the disk.
local access = require "web.access"
local M = { PREFIX = "api-token/", MARK = "sp_api_", MAX = 64 }

--- Scopes, and what each allows. write and policy have what read has.
M.scopes = {
  { name = "read", says = "lists, records, the log, explanations" },
  { name = "write", says = "changes, but those of policies and of where secrets are sent" },
  { name = "policy", says = "policies, upstream-ca, connect-to" },
  { name = "operator", says = "beside write: who is an operator, or may answer what agents ask; their links, their end" },
  { name = "metrics", says = "/metrics alone" },
}

--- The hash of a token's text.
function M.hash(text) return access.hash("api", text) end

--- The record of the token with this text, while it counts | nil. now: Unix s
function M.check(text, now)
  if type(text) ~= "string" or #text > 100 or text:sub(1, #M.MARK) ~= M.MARK then return nil end
  local hash = M.hash(text)
  for _, row in ipairs(require("store").each("meta", M.PREFIX, nil, M.MAX) or {}) do
    local r = row.record
    if r and access.same(r.hash, hash) then return (not r.expires_at or r.expires_at > now) and r or nil end
  end
  return nil
end

--- May this list of scopes do what needs `scope`?
function M.allows(scopes, scope)
  for _, s in ipairs(scopes) do
    if s == scope or scope == "read" and (s == "write" or s == "policy") then return true end
  end
  return false
end

return M
