--- Messages to the operator's webhook (`sallyport set webhook`): a proposal, a request that waits for a person, a credential that fails or
-- ends soon, an agent that is refused in a burst. Sent through the guard, signed, tried again with back-off; what waits is bounded.
--
-- A message names agents, rules, credentials, hosts and methods: no path, no reason, no words of an agent's. It waits in the database `lease`,
-- whq/SHARE/ID { message, at, tries, due }, and is taken by whoever writes it anew first. What was told of credentials is
-- whs { told = { ["credential NAME CODE"] = when } }, written in the commit that queues the messages.
--
-- Signature: Sallyport-Signature: t=SECONDS,v1=HEX, the HMAC-SHA256 under the webhook's secret of "SECONDS.BODY".
-- A message comes at least once: where its answer is lost or late it is sent again, with the same message_id.
local M = {}

local QUEUE, TOLD = "whq/", "whs"
-- How many messages wait of a kind, and of those one agent's: agents make the first kind at will, and push out neither another agent's nor what is
-- told of them. A message without room is dropped, which the log says; of credentials it is told at a later look.
local shares = {
  asks = { QUEUE .. "a/", 100, 25 },
  refusals = { QUEUE .. "r/", 50, 5 },
  credentials = { QUEUE .. "c/", 50 },
}
local QUEUE_MAX = 200
local PASS = 30000                  -- ms for one look at what waits: bursts and credentials are looked at between two
local SEND = 10000                  -- ms for one try
local TRIES, WAIT, WAIT_MAX = 12, 5, 3600    -- tries; s before the second one, doubled each time up to an hour: some six hours in all
local RETRY_EVERY, SCAN_EVERY = 5, 60        -- s between two looks at what waits, and at credentials
local BURST, BURST_IN = 20, 300     -- refusals of an agent within so many seconds
local TEXT_MAX = 300                -- characters of a text of a provider's, or of ours
local COMMIT = 10000                -- ms
local TROUBLES_MAX = 500            -- that are looked at,
local TOLD_MAX = 1000               -- and of which it is known that they were told: those of the last hour are among them
local FORGET = 3600                 -- s: what comes and goes within this time is told once

local function now() return require("time").wall() end
local function clean(text) return require("web.page").clean(tostring(text), TEXT_MAX) or "" end

local function log(text)
  local write = require("host").log
  if write then write("ev=webhook " .. text) end
end

-- The webhook as it is kept: { value = origin, format, address, secrets = { target, key } } | nil
local function kept()
  local store = require "store"
  local record, format = store.get("meta", "set/webhook"), store.peek("meta", "set/webhook-format")
  if not record or not record.secrets or not record.secrets.key then return nil end
  record.format = format and format.value or "json"
  return record
end

-- ---- what is sent ----------------------------------------------------------------------------------

local function slack(text) return (text:gsub("[&<>]", { ["&"] = "&amp;", ["<"] = "&lt;", [">"] = "&gt;" })) end

local bodies = {}
M.bodies = bodies       -- format -> function(message) -> body, its type

function bodies.json(m) return require("json").encode(m), "application/json" end

-- Slack shows the blocks: one that is no markup, in which a host that an agent names is no link, and ours, taken as it stands (its text object's
-- `verbatim`). Who copies Slack's webhooks shows `text`. Nobody is called by it, and no address in it is fetched for a preview.
function bodies.slack(m)
  local link = m.url and ("<%s>"):format(slack(m.url))
  return require("json").encode { text = slack(m.text) .. (link and "\n" .. link or ""), mrkdwn = false, link_names = false, parse = "none", unfurl_links = false, unfurl_media = false,
    blocks = { { type = "section", text = { type = "plain_text", text = slack(m.text), emoji = false } },
      link and { type = "section", text = { type = "mrkdwn", text = link, verbatim = true } } or nil } }, "application/json"
end

function bodies.ntfy(m) return m.text, "text/plain; charset=utf-8" end

-- One try: true | nil, why, whether another one could help
local function send(hook, m)
  local secret, wall = require "secret", tostring(now())
  local body, kind = bodies[hook.format](m)
  local signature = "t=" .. wall .. ",v1=" .. secret.hex(secret.hmac(hook.secrets.key, "sha256", wall .. "." .. body))
  local headers = { { "Content-Type", kind }, { "User-Agent", "sallyport" }, { "Sallyport-Signature", signature }, { "Sallyport-Message", m.message_id } }
  if hook.format == "ntfy" then
    headers[5], headers[6] = { "Title", "Sallyport: " .. m.event }, m.url and { "Click", m.url }
  end
  local answer, code = require("route").client.request({ method = "POST", url = hook.value, target = hook.secrets.target, headers = headers, body = body,
    exact = true, addresses = hook.address and { hook.address } or nil, expect = {}, max = 64 << 10 }, require("time").now() + SEND)
  if not answer then return nil, tostring(code), true end
  if answer.status >= 200 and answer.status < 300 then return true end
  return nil, "status " .. answer.status, answer.status >= 500 or answer.status == 429 or answer.status == 408
end

local function random_id() return require("host").sha256_hex((require("host").random_token ""):sub(1, 43)):sub(1, 16) end

--- One message to the webhook, now and once: true | nil, why
function M.test(home)
  local hook = kept()
  if not hook then return nil, "there is no webhook, or its secret is missing" end
  return send(hook, { event = "test", message_id = random_id(), at = require("dates").iso(now()), text = clean(("A test message of the Sallyport at %s: it reaches you, and is signed."):format(home)) })
end

-- Whether a kind of event is told of at all.
local function wanted(settings, event)
  for _, name in ipairs(settings.webhook_events or require("records").webhook_events) do
    if name == event then return true end
  end
  return false
end

-- A message that waits, taken by whoever moves its time first. false: the server did not take it now.
local function deliver(key)
  local store, hook = require "store", kept()
  local row = store.peek("lease", key)
  if not row or row.due > now() then return end
  if not hook then
    store.write { { op = "del", db = "lease", key = key } }
    return
  end
  row.message.message_id = key:match("[^/]+$")
  local plain = { message = row.message, at = row.at, tries = row.tries + 1, due = now() + math.min(WAIT << row.tries, WAIT_MAX) + SEND // 1000 }
  if not store.write({ { op = "put", db = "lease", key = key, version = row.version, plain = plain } }, require("time").now() + COMMIT) then return end
  local ok, why, again = send(hook, row.message)
  if ok then log(("event=%s ok=yes"):format(row.message.event))
  else log(("event=%s err=%q try=%d%s"):format(row.message.event, why, plain.tries, (not again or plain.tries >= TRIES) and " gave_up=yes" or "")) end
  if ok or not again or plain.tries >= TRIES then store.write { { op = "del", db = "lease", key = key } } end
  return ok or not again
end

-- What waits, the one that waited longest first, until the server takes no more.
local function retry()
  local store, due, till = require "store", {}, require("time").now() + PASS
  for _, row in ipairs(store.each("lease", QUEUE, nil, QUEUE_MAX) or {}) do
    if row.damaged then store.write { { op = "del", db = "lease", key = row.key } }
    elseif row.record.due <= now() then due[#due + 1] = { row.key, row.record.due } end
  end
  table.sort(due, function(a, b) return a[2] < b[2] end)
  for _, row in ipairs(due) do
    if deliver(row[1]) == false or require("time").now() > till then return end
  end
end

-- ---- what is told ----------------------------------------------------------------------------------

-- The operation that queues a message of a share, and its key.
local function queued(share, message)
  message.at, message.text = require("dates").iso(now()), clean(message.text)
  local key = share[1] .. random_id()
  return { op = "put", db = "lease", key = key, version = 0, plain = { message = message, at = now(), tries = 0, due = 0 } }, key
end

local function send_soon(keys)
  require("host").spawn(function()
    for _, key in ipairs(keys) do
      if deliver(key) == false then return end        -- the others are tried again with it
    end
  end)
end

-- How many messages of a share wait, and how many of them are this agent's.
local function waiting(share, agent)
  local rows, own = require("store").each("lease", share[1], nil, share[2]) or {}, 0
  for _, row in ipairs(rows) do
    if row.record and row.record.message.agent == agent then own = own + 1 end
  end
  return #rows, own
end

-- Tells of something that an agent did: { event =, agent =, text =, url =, … }. settings: records.settings; without a webhook it does
-- nothing. Yields.
local function tell(settings, share, message)
  if not settings.webhook or not wanted(settings, message.event) then return end
  local all, own = waiting(share, message.agent)
  if all >= share[2] or own >= share[3] then return log(("event=%s agent=%s err=full"):format(message.event, message.agent)) end
  local op, key = queued(share, message)
  if require("store").write({ op }, require("time").now() + COMMIT) then send_soon { key } end
end

function M.proposal(settings, id, agent, services)
  local hosts = {}
  for i, s in ipairs(services) do hosts[i] = s.host ~= "" and s.host or s.name end
  tell(settings, shares.asks, { event = "proposal", agent = agent, id = id, hosts = require("json").array(hosts), url = require("proposals").link(settings, "p", id),
    text = ("Proposal %s: the agent %s asks for %s"):format(id, agent, table.concat(hosts, ", ")) })
end

function M.question(settings, r)
  tell(settings, shares.asks, { event = "approval", agent = r.agent, id = r.question, rule = r.rule, method = r.method, host = r.host, credential = r.credential,
    url = require("proposals").link(settings, "q", r.question),
    text = ("Request %s of the agent %s waits for a person: %s to %s (rule %s)"):format(r.question, r.agent, r.method, r.host, r.rule) })
end

-- ---- refusals in a burst -----------------------------------------------------------------------------

local refused = {}      -- agent -> refusals of this worker that were not counted with the others'

local on = false

function M.refused(agent)
  if on then refused[agent] = (refused[agent] or 0) + 1 end
end

-- Counts them with those of the other workers; whoever crosses the bound tells.
local function bursts(settings)
  local before = refused
  refused = {}
  for agent, n in pairs(before) do
    local all = require("host").count("webhook refused " .. agent, require("counters").ends(BURST_IN, now()), n, agent)
    if all and all >= BURST and all - n < BURST then
      tell(settings, shares.refusals, { event = "refusals", agent = agent, count = all,
        text = ("The agent %s was refused %d times within %d minutes. sallyport log --denied --agent %s"):format(agent, all, BURST_IN // 60, agent) })
    end
  end
end

-- ---- credentials -------------------------------------------------------------------------------------

-- What is wrong with credentials, and what ends soon: { [what and its code] = { what, why } }, and these keys in order
local function troubles()
  local out, keys = {}, {}
  for name, why, code in require("troubles").each(now(), function() require("time").sleep(0) end) do
    local key = clean(name .. " " .. code)
    if #keys >= TROUBLES_MAX then break end
    if not out[key] then keys[#keys + 1], out[key] = key, { clean(name), clean(why) } end
  end
  return out, keys
end

--- Which of the troubles that there are (keys, in order) are to be told, at most `room`, and what is known to be told then: { key … },
-- { [key] = when } | nil: nothing changes. told: what was known before.
function M.news(told, keys, at, room)
  local all, new, known, n, changed = {}, {}, {}, 0, false
  for _, key in ipairs(keys) do all[key] = true end
  for key, when in pairs(told) do
    if math.type(when) and (all[key] or at - when < FORGET and when <= at) then known[key], n = when, n + 1 else changed = true end
  end
  for _, key in ipairs(keys) do
    if not known[key] and #new < room and n < TOLD_MAX then new[#new + 1], known[key], n, changed = key, at, n + 1, true end
  end
  return new, changed and known or nil
end

-- Tells what was not told yet, as far as there is room, and forgets what is mended.
local function scan()
  local store = require "store"
  local was, all, keys = store.peek("lease", TOLD), troubles()
  local new, known = M.news(was and was.told or {}, keys, now(), shares.credentials[2] - waiting(shares.credentials))
  if not known then return end
  local ops, sent = { { op = "put", db = "lease", key = TOLD, version = was and was.version or 0, plain = { told = known } } }, {}
  for i, key in ipairs(new) do
    local name, why = all[key][1], all[key][2]
    ops[i + 1], sent[i] = queued(shares.credentials, { event = "credential", credential = name, why = why, text = ("%s: %s. sallyport status"):format(name, why) })
  end
  if store.write(ops, require("time").now() + COMMIT) then send_soon(sent) end
end

-- Whether this worker is the one that does it in this stretch of time.
local function mine(what, every)
  return require("host").count("webhook " .. what, require("counters").ends(every, now()), 1, "") == 1
end

local busy = false

--- Called each tick. settings: records.settings
function M.tick(settings)
  on = settings.webhook ~= nil
  if not on or busy then return end
  busy = true
  require("host").spawn(function()
    local _ <close> = setmetatable({}, { __close = function() busy = false end })
    bursts(settings)
    if wanted(settings, "credential") and mine("scan", SCAN_EVERY) then scan() end
    if mine("retry", RETRY_EVERY) then retry() end
  end)
end

return M
