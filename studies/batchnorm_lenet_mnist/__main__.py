from studies.batchnorm_lenet_mnist.study import main

main()
