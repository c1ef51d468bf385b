import pytest
import torch

from lora_tta.models import OpenSoraTransformer3DModel
from lora_tta.models.packing import pack_latents
from lora_tta.models.scheduling import add_noise, velocity_target
from lora_tta.models.transformer import OpenSoraRotaryPosEmbed, apply_rotary_emb


def test_forward_matches_the_published_code(transformer, transformer_inputs, mmdit_io, relative_error):
    with torch.no_grad():
        velocity = transformer(**transformer_inputs).sample
    assert relative_error(velocity, mmdit_io["velocity"]) < 1e-5


def test_training_loss_and_gradient_match_the_published_code(
    transformer, transformer_inputs, mmdit_io, relative_error
):
    latents, noise = pack_latents(mmdit_io["latent_noise"]), pack_latents(mmdit_io["train_noise"])
    timestep = mmdit_io["train_timestep"]
    transformer_inputs |= {"hidden_states": add_noise(latents, noise, timestep), "timestep": timestep}
    velocity = transformer(**transformer_inputs).sample
    loss = torch.nn.functional.mse_loss(velocity, velocity_target(latents, noise))
    loss.backward()

    assert relative_error(loss, mmdit_io["train_loss"][0]) < 1e-5
    gradient = transformer.single_transformer_blocks[0].attn.to_q.weight.grad
    assert relative_error(gradient, mmdit_io["train_grad_single0_q"]) < 1e-5


def test_gradient_checkpointing_changes_nothing(transformer, transformer_inputs):
    def gradients():
        transformer.zero_grad()
        transformer(**transformer_inputs).sample.square().mean().backward()
        return {name: parameter.grad.clone() for name, parameter in transformer.named_parameters()}

    plain = gradients()
    transformer.train()
    transformer.enable_gradient_checkpointing()
    recomputed = gradients()
    assert all(torch.equal(plain[name], recomputed[name]) for name in plain)


def test_modulation_may_be_computed_beforehand(transformer, transformer_inputs):
    expected = transformer(**transformer_inputs).sample
    timestep = transformer_inputs.pop("timestep").expand(1)
    pooled_projections = transformer_inputs.pop("pooled_projections")
    modulation = transformer.modulation(timestep, pooled_projections)
    assert torch.equal(transformer(**transformer_inputs, modulation=modulation).sample, expected)
    with pytest.raises(ValueError, match="timestep and pooled_projections, or modulation"):
        transformer(**transformer_inputs, timestep=timestep)


def test_all_blocks_take_another_attention(transformer, transformer_inputs):
    calls = []

    def attention(*heads: torch.Tensor) -> torch.Tensor:
        calls.append(heads)
        query, key, value = (part.double().transpose(1, 2) for part in heads)
        attended = torch.nn.functional.scaled_dot_product_attention(query, key, value)
        return attended.transpose(1, 2).to(heads[0].dtype)

    expected = transformer(**transformer_inputs).sample
    transformer.compute_by(attention=attention)
    torch.testing.assert_close(transformer(**transformer_inputs).sample, expected)
    num_blocks = len(transformer.transformer_blocks) + len(transformer.single_transformer_blocks)
    num_text, num_video = (
        transformer_inputs[name].shape[1] for name in ("encoder_hidden_states", "hidden_states")
    )
    heads = (transformer.config.num_attention_heads, transformer.config.attention_head_dim)
    assert [key.shape for _, key, _ in calls] == [(1, num_text + num_video, *heads)] * num_blocks
    *queries, last_query = [query for query, _, _ in calls]
    assert [query.shape for query in queries] == [key.shape for _, key, _ in calls[:-1]]
    assert last_query.shape == (1, num_video, *heads)


def test_tokens_left_out_of_a_block_change_nothing_for_the_others(transformer):
    block, dim = transformer.single_transformer_blocks[0], transformer.proj_out.in_features
    hidden_states, modulation = torch.randn(2, 7, dim), torch.randn(2, 3 * dim)
    rotary_emb = transformer.pos_embed(torch.randint(5, (7, 3)))
    expected = block(hidden_states, modulation, rotary_emb)[:, 3:]
    torch.testing.assert_close(block(hidden_states, modulation, rotary_emb, first_token=3), expected)


def test_batch_rows_are_independent(transformer, transformer_inputs):
    other = {
        name: torch.randn_like(value)
        for name, value in transformer_inputs.items()
        if name not in ("img_ids", "txt_ids", "timestep")
    } | {"timestep": torch.tensor([0.9])}
    both = transformer_inputs | {name: torch.cat((transformer_inputs[name], other[name])) for name in other}
    with torch.no_grad():
        first = transformer(**transformer_inputs).sample
        second = transformer(**(transformer_inputs | other)).sample
        torch.testing.assert_close(
            transformer(**both).sample, torch.cat((first, second)), rtol=1e-4, atol=1e-5
        )


@pytest.mark.parametrize("ids", [("img_ids", "txt_ids"), ("img_ids",)])
def test_token_positions_may_have_a_batch_axis(transformer, transformer_inputs, ids):
    with torch.no_grad():
        expected = transformer(**transformer_inputs, return_dict=False)[0]
        batched = {name: transformer_inputs[name][None] for name in ids}
        assert torch.equal(transformer(**(transformer_inputs | batched)).sample, expected)


def test_blocks_compile_without_graph_breaks(transformer, transformer_inputs):
    with torch.no_grad():
        expected = transformer(**transformer_inputs).sample
        transformer.compile_repeated_blocks(fullgraph=True, backend="eager")
        torch.testing.assert_close(transformer(**transformer_inputs).sample, expected)


def test_bfloat16_stays_close_to_float32(transformer, transformer_inputs, relative_error):
    with torch.no_grad():
        expected = transformer(**transformer_inputs).sample
        kept = ("img_ids", "txt_ids", "timestep")
        inputs = {
            name: value if name in kept else value.bfloat16() for name, value in transformer_inputs.items()
        }
        velocity = transformer.bfloat16()(**inputs).sample
    assert velocity.dtype == torch.bfloat16
    assert relative_error(velocity.float(), expected) < 0.05


def test_save_and_load_round_trip(transformer, transformer_inputs, tmp_path):
    transformer.save_pretrained(tmp_path, max_shard_size="500KB")
    # Memory-mapped weights lie unaligned, for which PyTorch rounds differently in the last bit.
    loaded = OpenSoraTransformer3DModel.from_pretrained(tmp_path, disable_mmap=True)
    assert loaded.config.axes_dims_rope == [4, 14, 14]
    with torch.no_grad():
        assert torch.equal(loaded(**transformer_inputs).sample, transformer(**transformer_inputs).sample)


def test_default_sizes_are_the_published_ones():
    with torch.device("meta"):
        transformer = OpenSoraTransformer3DModel()
    assert transformer.num_parameters() == pytest.approx(11.89e9, rel=1e-3)


def test_condition_is_required_exactly_when_configured(transformer, transformer_inputs):
    transformer_inputs["condition"] = None
    with pytest.raises(ValueError, match="needs a condition"):
        transformer(**transformer_inputs)


def test_rotary_axes_must_fill_the_head():
    with pytest.raises(ValueError, match="must add up to the head width 128"):
        OpenSoraTransformer3DModel(axes_dims_rope=(16, 56, 28))


def test_rotary_attention_depends_on_relative_positions_only():
    rotary = OpenSoraRotaryPosEmbed((4, 6, 6), theta=10000)
    query, key = torch.randn(2, 1, 1, 1, 16)

    def score(query_id, key_id):
        rotated = [
            apply_rotary_emb(x, rotary(torch.tensor([ids]))) for x, ids in ((query, query_id), (key, key_id))
        ]
        return (rotated[0] * rotated[1]).sum()

    torch.testing.assert_close(
        score([5, 2, 9], [3, 7, 4]), score([6, 4, 12], [4, 9, 7]), rtol=1e-4, atol=1e-5
    )
    assert (score([5, 2, 9], [3, 7, 4]) - score([5, 2, 9], [3, 8, 4])).abs() > 1e-3
