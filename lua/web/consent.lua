--- Signing in to the account of an OAuth credential where no terminal waits: begun here, ended by the address on which the browser came back.
-- For programs (/api/v1) what was begun is kept in memory, one a caller and credential; at the door, whose workers share nothing, it follows
-- from the session and from what chance made of `state`, so that nothing is kept at all.
local access = require "web.access"
local connect = require "cli.authorization"
local M = {}

M.LIFE = 600            -- s for a person at the provider's page, as `connect` has
local BEGUN_MAX = 32    -- of programs, at once
local ANSWER_MAX = 8192 -- bytes of an address that a browser ended on

local begun = {}        -- who and which credential -> { asked, env, opened, till }

-- Stores what a code brings: true | nil, sentence. context: whose change it is
local function finish(env, opened, asked, code, context)
  local answer, second, detail = connect.exchange(env, opened, connect.code_grant(asked, code))
  if not answer then return nil, connect.sentence(second, detail) end
  local ok, why = env.tokens:connected(opened, answer, second, asked.scopes, { more = function() return { context = context } end })
  if not ok then return nil, connect.sentence(why) end
  return true
end

-- The credential, which somebody signs in to: opened | nil, sentence
local function open(env, name)
  local opened, code, why = connect.open(env, name)
  if not opened then
    return nil, code == "no_connect" and ("'%s' is of the type %s, which nobody signs in to"):format(name, why) or ("'%s' cannot be used: %s"):format(name, tostring(why or code))
  end
  if not opened.view.authorization_url then return nil, ("'%s' has no authorization_url"):format(name) end
  return opened
end

-- ---- for programs ----------------------------------------------------------------------------------

--- Begins one: { url, redirect_uri, expires_at } | nil, sentence. given: { redirect_uri, scopes } | {}. now: Unix s. Yields.
function M.start(home, who, name, given, now)
  local env, why = connect.env { home = home, host = require "host", opened = true }
  if not env then return nil, why end
  local opened
  opened, why = open(env, name)
  if not opened then return nil, why end
  local uri = given.redirect_uri or opened.view.redirect_uri or connect.REDIRECT
  local url = require("http").parse_url(uri)
  if not url or #uri > 500 or uri:find("[%c%s#]") then return nil, "redirect_uri is no address that a browser could come back to" end
  local scopes = connect.scopes(env, opened)
  for _, scope in ipairs(given.scopes or {}) do
    if require("oauth").scopes(scope, 1)[1] ~= scope then return nil, "a scope is one word, as the provider writes it" end
  end
  scopes = require("token").union(scopes, given.scopes)
  require("web.waiting").room(begun, now, BEGUN_MAX)
  local asked = connect.ask(env, opened, { redirect_uri = uri, scopes = scopes })
  begun[who .. "\n" .. name] = { asked = asked, env = env, opened = opened, till = now + M.LIFE, of = who }
  return { url = asked.url, redirect_uri = uri, expires_at = require("cli.report").time(now + M.LIFE) }
end

--- Ends it: true | nil, sentence. answer: the whole address on which the browser ended, or CODE#STATE. What belongs to another sign-in ends
-- nothing. Yields.
function M.finish(who, name, answer, context, now)
  local key = who .. "\n" .. name
  local one = begun[key]
  if not one or one.till <= now then return nil, ("no sign-in for '%s' was begun with this token in the last ten minutes"):format(name) end
  if #answer > ANSWER_MAX then return nil, connect.say.malformed_callback end
  local code, bad, detail = connect.pasted(one.env, one.asked, answer)
  if not code and (bad == "wrong_state" or bad == "malformed_callback" or bad == "no_code") then return nil, connect.say[bad] end
  begun[key] = nil
  if not code then return nil, connect.sentence(bad, detail) end
  return finish(one.env, one.opened, one.asked, code, context)
end

-- ---- at the door -----------------------------------------------------------------------------------

local function redirect_uri() return access.issuer() .. "/approvals/callback" end
M.redirect_uri = redirect_uri

-- state: CHANCE.WHEN.MAC.ABOUT, where about says what is signed in to.
local function state_of(session, chance, at, about)
  return ("%s.%x.%s.%s"):format(chance, at, access.hash("consent-state", ("%s/%s/%x/%s"):format(session.key, chance, at, about)), about)
end

-- What the server is asked with | nil, sentence
local function asking(env, session, name, state)
  local opened, why = open(env, name)
  if not opened then return nil, why end
  local verifier = access.hash("consent-verifier", session.key .. "/" .. state)
  return connect.ask(env, opened, { redirect_uri = redirect_uri(), scopes = (connect.scopes(env, opened)), state = state, verifier = verifier }), opened
end

--- The address of the provider's page, for this session | nil, sentence. about: a text without dots that the callback gets back.
function M.at_door(q, session, name, about)
  local env = connect.env_of(q.pipeline, require "host")
  local asked, why = asking(env, session, name, state_of(session, access.random(), q.now, about))
  if not asked then return nil, why end
  return asked.url
end

--- What a browser that comes back to the door is about: about | nil: it was not begun in this session, or too long ago.
function M.about(q, session)
  local state = (require("web.page").params(q.query) or {}).state
  local chance, at, about = tostring(state):match("^([%w_-]+)%.(%x+)%.[%w_-]+%.([%w-]+)$")
  at = at and math.tointeger(tonumber(at, 16))
  if not at or at > q.now or q.now - at > M.LIFE or not access.same(state, state_of(session, chance, at, about)) then return nil end
  return about, state
end

--- Ends it: true | nil, sentence. Yields.
function M.back(q, session, name, state, context)
  local env = connect.env_of(q.pipeline, require "host")
  local asked, opened = asking(env, session, name, state)
  if not asked then return nil, opened end
  local code, bad, detail = connect.judge(env, asked, q.query or "")
  if not code then return nil, connect.sentence(bad, detail) end
  return finish(env, opened, asked, code, context)
end

return M
