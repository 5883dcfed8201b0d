--- An agent's placeholders as variables of an environment: for `sallyport env`, and the control socket.
local env = require "env"
local records = require "records"
local M = {}

local PAGE = 256            -- records a read takes at once

-- Every credential that can be read, in order of names.
local function stored()
  local page, at, more = {}, 0, true
  return function()
    at = at + 1
    if at > #page and more then
      page, at = require("store").each("credential", "", page[#page] and page[#page].key, PAGE), 1
      more = #page == PAGE
    end
    local item = page[at]
    if item then return item.key, not item.damaged and item.record or nil end
  end
end

-- The credentials that the agent has, in the order in which they count: that of its bundles, then their own.
local function held_by(agent)
  local rank, list = {}, {}
  for i, b in ipairs(agent.bundles or {}) do
    local bundle = require("store").peek("bundle", b)
    if not bundle or bundle.enabled ~= false then rank[b] = rank[b] or i end
  end
  for _, cred in stored() do
    local best
    for _, b in ipairs(cred and cred.enabled ~= false and cred.bundles or {}) do
      if rank[b] and (not best or rank[b] < best) then best = rank[b] end
    end
    if best then list[#list + 1] = { cred = cred, rank = best } end
  end
  table.sort(list, function(a, b)
    if a.rank ~= b.rank then return a.rank < b.rank end
    if a.cred.order ~= b.cred.order then return (a.cred.order or 0) < (b.cred.order or 0) end
    return a.cred.name < b.cred.name
  end)
  for i, item in ipairs(list) do list[i] = item.cred end
  return list
end

-- Are the calls refused that would hand out a further credential? Some are sealed unless the operator says otherwise (lua/seal.lua).
local function refuses(cred, preset)
  if cred.mint then return cred.mint ~= "allow" and cred.mint ~= "seal" end
  for _, row in ipairs(preset.seal) do
    if row.default then return false end
  end
  return true
end

-- What a type or preset wants set beside a placeholder: a client must not ask a person, say.
local function companions(cred, taken, out)
  local pol, preset = require("policy_store").load(cred.type), cred.preset and require("presets").get(cred.preset)
  for _, with in ipairs { cred.env and pol and pol.env and pol.env.with or {}, preset and preset.with or {},
    preset and refuses(cred, preset) and preset.without_mint or {} } do
    local names = {}
    for name in pairs(with) do names[#names + 1] = name end
    table.sort(names)
    for _, name in ipairs(names) do
      if not taken[name] then
        taken[name] = cred.name
        out[#out + 1] = { name, with[name] }
      end
    end
  end
end

-- Placeholders go into `out`, and whose each variable is into `taken`.
local function placeholders_of(agent, cred, note, taken, out)
  local held = records.held(agent.name, cred)
  for _, name in ipairs(held[1] and cred.env_also or {}) do held[#held + 1] = { env = name, text = held[1].text } end
  for _, h in ipairs(held) do
    local rival = env.rival(h.env, taken)
    if taken[h.env] and taken[h.env] ~= cred.name then
      note(("note: %s stands for '%s'; '%s' names the same variable"):format(h.env, taken[h.env], cred.name))
    elseif rival and taken[rival] ~= cred.name then
      note(("note: %s of '%s' is left out: clients that also find %s, which stands for '%s', take the wrong one"):format(
        h.env, cred.name, rival, taken[rival]))
    elseif not taken[h.env] and not rival then
      taken[h.env] = cred.name
      out[#out + 1] = { h.env, h.text }
    end
  end
end

-- Does it sign for Amazon, or go there?
local function is_aws(cred)
  local pol = require("policy_store").load(cred.type)
  if pol and pol.env and pol.env.name == "AWS_ACCESS_KEY_ID" then return true end
  for _, host in ipairs(cred.hosts or {}) do
    if require("aws").host((host:gsub("^%*", "any"))) then return true end
  end
  return false
end

--- What the agent (its record) holds in the place of its credentials, { { variable, text }… }, and the name of the first
-- of them that is for AWS | nil. note(text): what whoever reads that should know.
function M.of(agent, note)
  local out, taken, aws = {}, {}, nil
  for _, cred in ipairs(held_by(agent)) do
    placeholders_of(agent, cred, note, taken, out)
    companions(cred, taken, out)
    aws = aws or is_aws(cred) and cred.name or nil
  end
  return out, aws
end

return M
