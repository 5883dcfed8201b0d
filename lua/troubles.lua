--- What is wrong with credentials, and what ends soon: for `status`, the page and the webhook.
local M = {}

local SOON = 7 * 86400     -- s before an end at which it is named

--- Does an agent end soon, and when? a: its record
function M.ends_soon(a, now)
  return not a.revoked and a.expires_at ~= nil and a.expires_at > now and a.expires_at < now + SOON
end

--- What is wrong with a credential, in a sentence; nil: nothing that is known.
function M.of(record, now)
  local iso, token_state = require("dates").iso, require "cli.token_state"
  local pol, why = require("policy_store").load(record.type)
  if not pol then return ("its type %s is refused: %s"):format(record.type, tostring(why)) end
  local token = pol.refresh and token_state.read(record, now)
  if pol.connect then
    local how = token_state.connection(token)
    if how ~= "connected" then return how .. (": sallyport connect %s"):format(record.name) end
  end
  if token and token.last_error and not token.valid then return "its last refresh failed: " .. token.last_error end
  local refused = require("refused").last(record, token and token.obtained_at)
  return refused and ("%s answered 401 to it at %s"):format(refused.host, iso(refused.at)) or nil
end

local PAGE = 64

local function walk(db, prefix, pause, f)
  local store, after = require "store", nil
  repeat
    local page = store.each(db, prefix, after, PAGE) or {}
    for _, row in ipairs(page) do f(row) end
    after = page[#page] and page[#page].key
    pause()
  until #page < PAGE
end

--- Everything of the kind: for what, why in each(now, pause). pause(): called now and then, for it may take long.
function M.each(now, pause)
  local list, at = {}, 0
  walk("credential", "", pause, function(row)
    local r = row.record
    local why = not r and "it was changed on the disk, and is refused" or r.enabled ~= false and M.of(r, now) or nil
    local cert = r and not why and r.enabled ~= false and r.client_cert and require("cli.tls").troubles(r, now)[1]
    why = why or cert and ("%s %s"):format(cert[1], cert[2])
    if why then list[#list + 1] = { "credential " .. row.key, why } end
  end)
  walk("agent", "a/", pause, function(row)
    if row.record and M.ends_soon(row.record, now) then list[#list + 1] = { "agent " .. row.record.name, "it ends at " .. require("dates").iso(row.record.expires_at) } end
  end)
  return function()
    at = at + 1
    if list[at] then return list[at][1], list[at][2] end
  end
end

return M
