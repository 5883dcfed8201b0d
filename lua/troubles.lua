--- What is wrong with credentials, and what ends soon: for `status`, the page and the webhook.
local M = {}

local SOON = 7 * 86400     -- s before an end at which it is named

--- Does an agent end soon, and when? a: its record
function M.ends_soon(a, now)
  return not a.revoked and a.enabled ~= false and a.expires_at ~= nil and a.expires_at > now and a.expires_at < now + SOON
end

-- When the token of an account ends that nothing renews, where that is soon for its life | nil
local function last_days(token, now)
  local ends = token.valid and not token.renewable and token.expires_at
  local life = ends and ends - (token.obtained_at or now)
  return ends and ends - now < math.min(SOON, life // 4) and ends or nil
end

--- What is wrong with a credential, in a sentence, and a code that stays while the trouble is the same one: the sentence may have a moment in
-- it; nil: nothing that is known.
function M.of(record, now)
  local iso, token_state = require("dates").iso, require "cli.token_state"
  local pol, why = require("policy_store").load(record.type)
  if not pol then return ("its type %s is refused: %s"):format(record.type, tostring(why)), "type" end
  local token = pol.refresh and token_state.read(record, now)
  if pol.connect then
    local how = token_state.connection(token)
    if how ~= "connected" then return how .. (": sallyport connect %s"):format(record.name), how end
    local ends = last_days(token, now)
    if ends then return ("its token ends at %s, and nothing renews it: sallyport connect %s"):format(iso(ends), record.name), "ends" end
  end
  if token and token.last_error and not token.valid then return "its last refresh failed: " .. require("token").sentence(token.last_error, token.error_detail), "refresh" end
  local refused = require("refused").last(record, token and token.obtained_at)
  if refused then return ("%s answered 401 to it at %s"):format(refused.host, iso(refused.at)), "401" end
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

--- Everything of the kind: for what, why, code in each(now, pause). pause(): called now and then, for it may take long.
function M.each(now, pause)
  local list, at = {}, 0
  walk("credential", "", pause, function(row)
    local r, why, code = row.record, "it was changed on the disk, and is refused", "damaged"
    if r then why, code = nil, nil end
    if r and r.enabled ~= false then why, code = M.of(r, now) end
    local cert = r and not why and r.enabled ~= false and require("cli.tls").troubles(r, now)[1]
    if cert then why, code = ("%s %s"):format(cert[1], cert[2]), table.concat(cert, " ") end     -- its moment is the certificate's own
    if why then list[#list + 1] = { "credential " .. row.key, why, code } end
  end)
  walk("agent", "a/", pause, function(row)
    local a = row.record
    local ends = a and M.ends_soon(a, now) and require("dates").iso(a.expires_at)
    if ends then list[#list + 1] = { "agent " .. a.name, "it ends at " .. ends, ends } end
  end)
  return function()
    at = at + 1
    if list[at] then return table.unpack(list[at]) end
  end
end

return M
