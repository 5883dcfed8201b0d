--- What an agent may spend in a day or a month: requests, tokens, or money.
--
--   sallyport rule add spend --type budget --host api.anthropic.com usd=20 period=month
--   sallyport rule add tokens --type budget --host api.openai.com tokens=2000000 per=all
--   sallyport rule add calls --type budget --host api.acme.test requests=500 period=day per=credential
--
-- Days and months are those of UTC. Money and tokens are what the answers of OpenAI, Anthropic, Gemini, and those that copied them
-- say in `usage` (usageMetadata), streams, too. Before a call goes out, the most that it may cost is reserved: its input, taken as a
-- token for three bytes, and the bound that it names (max_tokens and its like; `unbounded` where it names none). What the answer says
-- takes its place. An answer without `usage` counts what was reserved: OpenAI's streams have it where the call asks with
-- stream_options.include_usage. So does a stream that broke off. A call that fails (a status of 400 and more) costs nothing but its request.
-- A call is refused once what it may cost is no longer there; at 80 % the log says so (ev=rule_warning). Counters survive a restart; a
-- kill loses at most the last second. What a worker that died had reserved stays reserved until the day or month is over.
--
-- Prices are US dollars for a million tokens. They are Anthropic's (platform.claude.com/docs/en/about-claude/pricing) and Google's
-- (ai.google.dev/gemini-api/docs/pricing) of October 2026, and OpenAI's (developers.openai.com/api/docs/pricing) of September 2026, of that
-- page as others quote it. Where a model has several the dearer counts: that of long prompts (OpenAI's from GPT-5.4 on: twice the input
-- and 1.5 of the output above 272,000 tokens), of audio, and the one that follows on an offer. Compare them with your
-- provider's page, and edit `prices` below (sallyport policy edit budget). A model that is not listed, or a
-- service_tier that may cost more, counts at the dearest price, and the dearest of the models that a body and a path name counts.
-- What tools of the provider cost beside tokens (web searches) is not counted. Batches, files and calls of other kinds have no
-- `usage`: batches, and bodies that are no JSON, are refused where money or tokens are counted; narrow the rule with --path.
local prices = {     -- name, input, output: also with "-", a date of 20… behind it, and no other model that begins so
  { "gpt-6-astra", 20, 75 }, { "gpt-6-sol", 4, 15 }, { "gpt-6.1-sol", 4, 15 }, { "gpt-5.6-sol", 10, 45 }, { "gpt-5.6-terra", 4, 18 },
  { "gpt-5.6-luna", 0.4, 1.8 }, { "gpt-5.5", 10, 45 }, { "gpt-5.5-pro", 60, 270 }, { "gpt-5.4", 5, 22.5 }, { "gpt-5.4-pro", 60, 270 },
  { "gpt-5.4-mini", 1.5, 6.75 }, { "gpt-5.4-nano", 0.4, 1.875 }, { "gpt-5.3-codex", 1.75, 14 }, { "gpt-5.2", 1.75, 14 },
  { "gpt-5.2-codex", 1.75, 14 }, { "gpt-5.2-pro", 21, 168 }, { "gpt-5.1", 1.25, 10 }, { "gpt-5.1-codex", 1.25, 10 },
  { "gpt-5.1-codex-mini", 0.25, 2 }, { "gpt-5", 1.25, 10 }, { "gpt-5-codex", 1.25, 10 }, { "gpt-5-mini", 0.25, 2 },
  { "gpt-5-nano", 0.05, 0.4 }, { "gpt-5-pro", 15, 120 }, { "gpt-4.1", 2, 8 }, { "gpt-4.1-mini", 0.4, 1.6 }, { "gpt-4.1-nano", 0.1, 0.4 },
  { "gpt-4o", 5, 15 }, { "gpt-4o-mini", 0.15, 0.6 }, { "o1", 15, 60 }, { "o1-pro", 150, 600 }, { "o3", 2, 8 }, { "o3-pro", 20, 80 },
  { "o3-mini", 1.1, 4.4 }, { "o4-mini", 1.1, 4.4 }, { "text-embedding-3-small", 0.02, 0.02 }, { "text-embedding-3-large", 0.13, 0.13 },
  { "claude-fable-5-2", 8, 40 }, { "claude-fable-5-1", 10, 50 }, { "claude-fable-5", 10, 50 }, { "claude-mythos-5-1", 10, 50 },
  { "claude-mythos-5", 10, 50 }, { "claude-opus-5-5", 4, 20 }, { "claude-opus-5", 5, 25 }, { "claude-opus-4-8", 5, 25 },
  { "claude-opus-4-7", 5, 25 }, { "claude-opus-4-6", 5, 25 }, { "claude-opus-4-5", 5, 25 }, { "claude-opus-4-1", 15, 75 },
  { "claude-opus-4-0", 15, 75 }, { "claude-opus-4", 15, 75 }, { "claude-sonnet-5-5", 2, 10 }, { "claude-sonnet-5", 2, 10 },
  { "claude-sonnet-4-6", 3, 15 }, { "claude-sonnet-4-5", 3, 15 }, { "claude-sonnet-4-0", 6, 22.5 }, { "claude-sonnet-4", 6, 22.5 },
  { "claude-haiku-5-5", 0.5, 2.5 }, { "claude-haiku-4-5", 1, 5 }, { "claude-3-7-sonnet-latest", 3, 15 }, { "claude-3-7-sonnet", 3, 15 },
  { "claude-3-5-haiku-latest", 0.8, 4 }, { "claude-3-5-haiku", 0.8, 4 }, { "claude-3-haiku", 0.25, 1.25 },
  { "claude-3-opus-latest", 15, 75 }, { "claude-3-opus", 15, 75 },
  { "gemini-3.8-flash", 1.5, 7.5 }, { "gemini-3.7-flash", 1.5, 7.5 }, { "gemini-3.6-flash", 1.5, 7.5 }, { "gemini-3.5-flash", 1.5, 9 },
  { "gemini-3.5-flash-lite", 0.3, 2.5 }, { "gemini-3.1-pro-preview", 4, 18 }, { "gemini-3-pro-preview", 4, 18 },
  { "gemini-3-flash-preview", 1, 3 }, { "gemini-3.1-flash-lite", 0.5, 1.5 }, { "gemini-2.5-pro", 2.5, 15 }, { "gemini-2.5-flash", 1, 2.5 },
  { "gemini-2.5-flash-lite", 0.3, 0.4 }, { "gemini-2.0-flash", 0.7, 0.4 }, { "gemini-2.0-flash-lite", 0.075, 0.3 },
  { "gemini-2.0-flash-001", 0.7, 0.4 }, { "gemini-2.0-flash-lite-001", 0.075, 0.3 },
}
local dearest = { "*", 150, 600 }
for _, p in ipairs(prices) do dearest = { "*", math.max(dearest[2], p[2]), math.max(dearest[3], p[3]) } end

local bounds = { "max_tokens", "max_completion_tokens", "max_output_tokens", "max_tokens_to_sample", "maxOutputTokens", "maxTokens", "num_predict" }
local within = { "generationConfig", "generation_config", "inferenceConfig", "options" }
local times = { "n", "best_of", "candidateCount", "candidate_count" }
local in_path = { "/models/()[^/:]+():", "/model/()[^/]+()/", "/deployments/()[^/]+()/" }     -- Gemini and Vertex AI; Bedrock; Azure
local tiers = { auto = true, default = true, standard = true, standard_only = true, flex = true }     -- at these prices, or below

local function price_of(model)
  local name = type(model) == "string" and model:match("[^/]*$"):gsub("@", "-") or ""      -- Vertex AI: NAME@DATE
  for _, p in ipairs(prices) do
    if name == p[1] or fits({ p[1] .. "-20*" }, name) then return p end
  end
  return dearest
end

-- The price of a call: of all models that its body and its path name, as a server may go by either.
local function price_at(body, readings)
  local models, price = {}, { "", 0, 0 }
  for k, v in pairs(body) do
    local name = type(k) == "string" and v ~= json.null and k:lower()
    if name == "models" and type(v) == "table" then      -- OpenRouter's, to fall back on
      for _, one in pairs(v) do models[#models + 1] = one end
    elseif name == "model" or name == "models" then
      models[#models + 1] = v
    end
  end
  for _, path in ipairs(readings) do
    for _, p in ipairs(in_path) do
      for from, to in path:lower():gmatch(p) do models[#models + 1] = path:sub(from, to - 1) end
    end
  end
  local tier = body.service_tier
  if not models[1] or tier ~= nil and tier ~= json.null and not tiers[tier] then return dearest end
  for _, model in ipairs(models) do
    local p = price_of(model)
    price = { "", math.max(price[2], p[2]), math.max(price[3], p[3]) }
  end
  return price
end

-- Does each reading of the path end in one of these?
local function all_end(readings, ends)
  for _, path in ipairs(readings) do
    local found = false
    for _, e in ipairs(ends) do found = found or path:lower():find(e) ~= nil end
    if not found then return false end
  end
  return true
end

local function whole(v) return type(v) == "number" and v > 0 and v < 1e12 and math.ceil(v) or 0 end

-- The largest of the members of these names.
local function most(t, names)
  local n = 0
  for _, name in ipairs(names) do n = math.max(n, whole(t[name])) end
  return n
end

-- Input, output and cached tokens of one object `usage`, whoever wrote it.
local function usage_of(u)
  local input = math.max(whole(u.prompt_tokens), whole(u.input_tokens), whole(u.promptTokenCount) + whole(u.toolUsePromptTokenCount))
  local output = math.max(whole(u.completion_tokens), whole(u.output_tokens), whole(u.candidatesTokenCount) + whole(u.thoughtsTokenCount))
  local total = math.max(whole(u.total_tokens), whole(u.totalTokenCount))
  return input, math.max(output, total - input), whole(u.cache_creation_input_tokens), whole(u.cache_read_input_tokens)
end

-- US dollars as a whole number of millionths.
local function micros(text) return math.ceil(tonumber(text) * 1000000 - 0.5) end

local function dollars(n) return ("$%.2f"):format(n / 1000000) end

-- What a rule limits: { name, limit, what it shows } each.
local function limits(rule)
  local out = {}
  if rule.usd ~= "" then out[#out + 1] = { "usd", micros(rule.usd), dollars } end
  if rule.tokens > 0 then out[#out + 1] = { "tokens", rule.tokens, function(n) return n .. " tokens" end } end
  if rule.requests > 0 then out[#out + 1] = { "requests", rule.requests, function(n) return n .. " requests" end } end
  return out
end

-- The counters of a rule, as `counters` says them. What calls in flight may cost is counted a second time, under `held`.
local function counters(rule)
  local out = {}
  for i, c in ipairs(limits(rule)) do
    local name, limit = c[1], c[2]
    out[i] = { label = name, key = name .. " {}", per = rule.per, window = rule.period, limit = limit, kept = true, warn = limit * 4 // 5,
      held = name ~= "requests" and "held " .. name .. " {}" or nil, unit = name == "usd" and "USD" or name, scale = name == "usd" and 1000000 or 1 }
  end
  return out
end

local function key_of(ctx, name)
  local who = { agent = ctx.agent, credential = ctx.credential or "", all = "*" }
  return name .. " " .. who[ctx.rule.per]
end

-- What a call may cost at most: tokens in, tokens out, its price; nil: nothing that is counted | nil, why
local function estimate(req, rule)
  if req.websocket then return nil, "what goes through a WebSocket cannot be counted" end
  if req.method ~= "POST" then return nil end
  local readings = req.readings()
  if not readings then return nil, "servers read this path in different ways" end
  if all_end(readings, { "/count_tokens$", ":counttokens$" }) then return nil end
  local body, why = req.json()
  if type(body) ~= "table" or body[1] ~= nil then return nil, ("the body cannot be read: %s"):format(why or "it is no object") end
  local embeds = all_end(readings, { "/embeddings$", ":embedcontent$", ":batchembedcontents$" })
  if not embeds and (body.requests ~= nil or body.batch ~= nil or body.input_file_id ~= nil) then
    return nil, "what a batch costs cannot be counted"
  end
  local bound, copies = most(body, bounds), math.max(1, most(body, times))
  for _, name in ipairs(within) do
    if type(body[name]) == "table" then
      bound, copies = math.max(bound, most(body[name], bounds)), math.max(copies, most(body[name], times))
    end
  end
  local input = #req.body // 3 + 1
  if embeds then return input, 0, price_at(body, readings) end
  return input, copies * (bound > 0 and bound or rule.unbounded), price_at(body, readings)
end

local function cost(name, input, output, price, made, read)
  if name == "requests" then return 1 end
  if name == "tokens" then return input + output + (made or 0) + (read or 0) end
  return math.ceil((input + 2 * (made or 0) + (read or 0) / 4) * price[2] + output * price[3])
end

local function spoken(ctx) return ctx.rule.period == "day" and "today" or "this month" end

return {
  kind = "rule", api = 1, name = "budget", title = "What may be spent in a day or a month",
  fields = {
    { name = "requests", type = "integer", min = 0, default = 0, help = "Requests in a period; 0: any" },
    { name = "tokens", type = "integer", min = 0, default = 0, help = "Tokens of models, in and out; 0: any" },
    { name = "usd", default = "", help = "US dollars: 12.50" },
    { name = "period", type = "enum", values = { "day", "month" }, default = "day", help = "Of UTC" },
    { name = "per", type = "enum", values = { "agent", "credential", "all" }, default = "agent", help = "What has a budget of its own" },
    { name = "unbounded", type = "integer", min = 1, default = 32000, help = "Output tokens of a call that names no bound" },
  },
  body = {}, answer = { "usage", "usageMetadata" }, counters = counters,
  validate = function(rule)
    if rule.usd ~= "" and not (rule.usd:find("^%d+%.?%d*$") and #rule.usd <= 9) then return nil, "usd", "is an amount: 12.50" end
    if #limits(rule) == 0 then return nil, "usd", "one of usd, tokens and requests is needed" end
    return true
  end,
  on_request = function(req, ctx)
    local rule, list = ctx.rule, limits(ctx.rule)
    local input, output, price
    if rule.usd ~= "" or rule.tokens > 0 then
      local why
      input, output, price = estimate(req, rule)
      why = not input and output
      if why then return deny(why) end
    end
    local held = {}
    for _, c in ipairs(list) do
      if c[1] == "requests" or input then
        local n = cost(c[1], input, output, price)
        local key = key_of(ctx, c[1])
        local now = ctx.count(key, rule.period, n, true)
        held[#held + 1] = { c[1], key, n }
        if now > c[2] then
          for _, h in ipairs(held) do ctx.count(h[2], rule.period, -h[3], true) end
          return deny(now - n >= c[2] and ("the budget of %s is spent %s"):format(c[3](c[2]), spoken(ctx))
            or ("of the budget of %s %s is left, and this call may cost %s"):format(c[3](c[2]), c[3](c[2] - now + n), c[3](n)))
        end
      end
    end
    for _, h in ipairs(held) do
      if h[1] ~= "requests" then ctx.count("held " .. h[2], rule.period, h[3]) end
    end
    ctx.memo.held, ctx.memo.price = held, price
  end,
  on_response = function(res, ctx)
    local rule = ctx.rule
    local input, output, made, read, said = 0, 0, 0, 0, false
    for _, u in ipairs(res.objects) do
      local a, b, c, d = usage_of(u)
      input, output, made, read = math.max(input, a), math.max(output, b), math.max(made, c), math.max(read, d)
      said = said or a + b > 0
    end
    for _, h in ipairs(ctx.memo.held or {}) do
      local name, key, reserved = h[1], h[2], h[3]
      local n = reserved
      if not res.answered then n = 0
      elseif name ~= "requests" and res.status >= 400 then n = 0
      elseif name ~= "requests" and said then
        n = cost(name, input, output, ctx.memo.price, made, read)
        if not res.whole then n = math.max(n, reserved) end
      end
      local now = ctx.count(key, rule.period, n - reserved, true)
      if name ~= "requests" then ctx.count("held " .. key, rule.period, -reserved) end
      for _, c in ipairs(limits(rule)) do
        if c[1] == name and now >= c[2] * 4 // 5 then
          ctx.warn(key, ("%s of %s are spent %s"):format(c[3](now), c[3](c[2]), spoken(ctx)))
        end
      end
    end
  end,
  examples = {
    { rule = { requests = 2 } },
    { rule = { requests = 2 }, counts = { ["requests a"] = 1 } },
    { rule = { requests = 2 }, counts = { ["requests a"] = 2 }, want = "the budget of 2 requests is spent today" },
    { rule = { tokens = 1000 }, req = { method = "GET", url = "https://api.openai.com/v1/models" } },
    { rule = { tokens = 1000 }, req = { method = "POST", url = "https://api.openai.com/v1/chat/completions",
      headers = { ["content-type"] = "application/json" }, body = '{"model":"gpt-5","max_completion_tokens":900}' } },
    { rule = { tokens = 1000 }, counts = { ["tokens a"] = 1000 }, req = { method = "POST", url = "https://api.openai.com/v1/chat/completions",
      headers = { ["content-type"] = "application/json" }, body = '{"model":"gpt-5","max_completion_tokens":900}' },
      want = "the budget of 1000 tokens is spent today" },
    { rule = { tokens = 1000 }, req = { method = "POST", url = "https://api.openai.com/v1/chat/completions",
      headers = { ["content-type"] = "application/json" }, body = '{"model":"gpt-5","n":2,"max_tokens":900}' },
      want = "of the budget of 1000 tokens 1000 tokens is left, and this call may cost 1814 tokens" },
    { rule = { usd = "1", period = "month" }, req = { method = "POST", url = "https://api.anthropic.com/v1/messages",
      headers = { ["content-type"] = "application/json" }, body = '{"model":"claude-haiku-4-5","max_tokens":1000}' } },
    { rule = { usd = "0.50" }, req = { method = "POST", url = "https://api.anthropic.com/v1/messages",
      headers = { ["content-type"] = "application/json" }, body = '{"model":"claude-of-tomorrow","max_tokens":1000}' },
      want = "of the budget of $0.50 $0.50 is left, and this call may cost $0.60" },
    { rule = { usd = "0.01" }, req = { method = "POST", url = "https://api.openai.com/v1/chat/completions",
      headers = { ["content-type"] = "application/json" }, body = '{"model":"gpt-5-nano-2025-08-07","max_completion_tokens":1000}' } },
    { rule = { usd = "0.01" }, req = { method = "POST",
      url = "https://aiplatform.googleapis.com/v1/projects/p/locations/l/publishers/anthropic/models/claude-haiku-4-5@20251001:rawPredict",
      headers = { ["content-type"] = "application/json" }, body = '{"max_tokens":1000}' } },
    { rule = { usd = "0.01" }, req = { method = "POST", url = "https://api.openai.com/v1/chat/completions",
      headers = { ["content-type"] = "application/json" }, body = '{"model":"gpt-5-nano-of-tomorrow","max_completion_tokens":1000}' }, want = true },
    { rule = { usd = "0.01" }, req = { method = "POST", url = "https://openrouter.ai/api/v1/chat/completions",
      headers = { ["content-type"] = "application/json" }, body = '{"model":"gpt-5-nano","models":["o1-pro"],"max_tokens":1000}' }, want = true },
    { rule = { usd = "0.01" }, req = { method = "POST", url = "https://openrouter.ai/api/v1/chat/completions",
      headers = { ["content-type"] = "application/json" }, body = '{"model":"gpt-5-nano","Model":"o1-pro","max_tokens":1000}' }, want = true },
    { rule = { usd = "0.01" }, req = { method = "POST", url = "https://api.openai.com/v1/chat/completions",
      headers = { ["content-type"] = "application/json" },
      body = '{"model":"gpt-5-nano","service_tier":"priority","max_completion_tokens":1000}' }, want = true },
    { rule = { usd = "0.01" }, req = { method = "POST", url = "https://x.openai.azure.com/openai/deployments/o1-pro/chat/completions",
      headers = { ["content-type"] = "application/json" }, body = '{"model":"gpt-5-nano","max_completion_tokens":1000}' }, want = true },
    { rule = { usd = "0.01" }, req = { method = "POST", url = "https://x.openai.azure.com/openai/Deployments/o1-pro/chat/completions",
      headers = { ["content-type"] = "application/json" }, body = '{"model":"gpt-5-nano","max_completion_tokens":1000}' }, want = true },
    { rule = { tokens = 1000 }, req = { method = "POST", url = "https://api.openai.com/v1/chat/completions",
      headers = { ["content-type"] = "application/json; charset=utf-7" }, body = '{"model":"gpt-5","max_completion_tokens":9}' },
      want = "the body cannot be read: the body is not UTF-8" },
    { rule = { usd = "0.50" }, req = { method = "POST",
      url = "https://generativelanguage.googleapis.com/v1beta/models/gemini-3-pro-image-preview:generateContent",
      headers = { ["content-type"] = "application/json" }, body = '{"model":"gemini-2.5-flash","generationConfig":{"maxOutputTokens":1000}}' }, want = true },
    { rule = { tokens = 100000 }, req = { method = "POST", url = "https://api.anthropic.com/v1/messages/batches",
      headers = { ["content-type"] = "application/json" },
      body = '{"requests":[{"custom_id":"1","params":{"model":"claude-haiku-4-5","max_tokens":9}}]}' },
      want = "what a batch costs cannot be counted" },
    { rule = { usd = "5" }, req = { method = "POST", url = "https://api.openai.com/v1/audio/transcriptions",
      headers = { ["content-type"] = "multipart/form-data; boundary=x" }, body = "--x--" }, want = true },
    { rule = { usd = "5" }, req = { method = "POST", url = "https://generativelanguage.googleapis.com/v1beta/models/gemini-2.5-pro:generateContent",
      headers = { ["content-type"] = "application/json" }, body = '{"generationConfig":{"maxOutputTokens":100}}' } },
  },
}
