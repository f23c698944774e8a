"""timm: one small model of each of many families."""

from __future__ import annotations

from functools import partial

import timm

from zoo.networks import Entry

# By the side of the image that they are fed: convolutions take small ones, windows and positions want their own.
MODELS = {
    64: """
        resnet26t resnetv2_50 seresnet50 ecaresnet26t skresnet18 res2net50_14w_8s resnest14d gernet_s cspresnet50
        darknet53 dla34 dpn68 densenet121 ese_vovnet19b_dw hrnet_w18_small rexnet_100 mixnet_s tinynet_e
        efficientnet_lite0 mobilenetv4_conv_small ghostnet_100 hardcorenas_a repvgg_a0 mobileone_s0 regnetz_b16
        nf_resnet50 dm_nfnet_f0 convnextv2_atto inception_next_tiny poolformer_s12 tresnet_m selecsls42 hgnet_tiny
        starnet_s1 xception41 inception_v4 pvt_v2_b0 edgenext_xx_small focalnet_tiny_srf repvit_m0_9 fastvit_t8
        mambaout_femto
    """,
    224: """
        vit_tiny_patch16_224 deit3_small_patch16_224 cait_xxs24_224 xcit_nano_12_p16_224 pit_ti_224 levit_128s
        mixer_s32_224 resmlp_12_224 swin_tiny_patch4_window7_224 swinv2_cr_tiny_ns_224 twins_pcpvt_small
        coat_lite_tiny convit_tiny tiny_vit_5m_224 efficientformer_l1 visformer_tiny hiera_tiny_224 mvitv2_tiny
        sequencer2d_s davit_tiny gcvit_xxtiny nest_tiny crossvit_tiny_240 beit_base_patch16_224 eva02_tiny_patch14_224
    """,
    256: "mobilevit_xxs mobilevitv2_050 botnet26t_256 halonet26t coatnet_nano_rw_224 maxvit_pico_rw_256",
}
SIDES = {"inception_v4": 96, "crossvit_tiny_240": 240, "coatnet_nano_rw_224": 224}


def entries() -> list[Entry]:
    """One for each model."""
    return [
        Entry("timm", name, partial(timm.create_model, name, pretrained=False), (3, *[SIDES.get(name, side)] * 2))
        for side, names in MODELS.items()
        for name in names.split()
    ]
